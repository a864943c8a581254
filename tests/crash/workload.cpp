#include "tests/crash/workload.hpp"

#include <algorithm>
#include <cstring>
#include <system_error>
#include <thread>

#include "cowcore/cow_description.hpp"
#include "cowcore/create_cow.hpp"

namespace cowfs::tests {

using core::sector_bytes;
using core::SectorNumber;

namespace {

constexpr SectorNumber hot_sectors = 48;  // most writes go to few sectors, so that they overlap

}  // namespace

Workload::Workload(const Shape& shape, Cow cow, std::uint64_t stream)
    : random_(stream),
      stream_(stream),
      header_(make_header(shape)),
      layout_(core::compute_layout(header_, "cow")) {
  backing_paths_.insert(header_.backing_path);
  make_backing();
  cow == Cow::existing ? make_existing_cow() : make_new_cow();
  history_.set_initial(std::move(initial_words_));
}

void Workload::make_backing() {
  backing_bytes_.resize(layout_.merged_size);
  const auto file = backing_->open();
  file->resize(layout_.backing_size);
  for (std::uint64_t at = 0; at < layout_.backing_size;) {
    const auto length = std::min(layout_.backing_size - at, random_.between(1, 12) * sector_bytes);
    if (!random_.one_in(3)) {
      const auto bytes = std::span(backing_bytes_).subspan(at, length);
      fill_cells(bytes, at / cell_bytes, TagKind::backing);
      file->write(at, bytes);
    }
    at += length;
  }
  initial_words_.resize(layout_.merged_size / cell_bytes);
  for (std::size_t cell = 0; cell < initial_words_.size(); ++cell) {
    std::memcpy(&initial_words_[cell], &backing_bytes_[cell * cell_bytes], sizeof(std::uint64_t));
  }
}

void Workload::make_existing_cow() {
  initial_file_ = core::serialize_header(header_);
  // Left-over memory behind the path, as UML writes it.
  const auto path = std::as_bytes(std::span(header_.backing_path));
  // Not std::ranges::search: clang 14 can't compile libstdc++ 12's.
  const auto found =
      std::search(initial_file_.begin(), initial_file_.end(), path.begin(), path.end());
  std::fill_n(found + static_cast<std::ptrdiff_t>(path.size()) + 1, 100, std::byte{0xee});
  initial_file_.resize(core::round_up(layout_.data_offset + layout_.backing_size, sector_bytes));
  const auto data = std::span(initial_file_).subspan(layout_.data_offset);
  fill_cells(data, 0, TagKind::garbage);
  const auto set_bit = [&](SectorNumber sector) {
    initial_file_[layout_.bitmap_offset + sector / 8] |= std::byte{1} << (sector % 8);
  };
  for (SectorNumber sector = 0; sector < layout_.sectors;) {
    const auto count = std::min(layout_.sectors - sector, random_.between(1, 9));
    if (random_.one_in(4)) {
      const auto kind = random_.one_in(4) ? TagKind::zeros : TagKind::old_cow;
      fill_cells(data.subspan(sector * sector_bytes, count * sector_bytes),
                 sector * cells_per_sector, kind);
      for (auto i = sector; i < sector + count; ++i) {
        set_bit(i);
        for (auto cell = i * cells_per_sector; cell < (i + 1) * cells_per_sector; ++cell) {
          initial_words_[cell] = word_of({kind, 0, cell});
        }
      }
    }
    sector += count;
  }
  // Bits behind the last sector may hold anything.
  for (auto bit = layout_.sectors; bit < layout_.bitmap_length * 8; ++bit) set_bit(bit);
  disk_.open_unlogged()->write(0, initial_file_);
}

void Workload::make_new_cow() {
  core::write_empty_cow(*disk_.open(std::make_shared<Death>()), header_);
  first_operation_ = disk_.log().operations().size();
}

std::unique_ptr<core::CowImage> Workload::open_image(const std::shared_ptr<Death>& death,
                                                     std::unique_ptr<core::PendingStore> pending) {
  return std::make_unique<core::CowImage>(disk_.open(death), backing_->open(), layout_, false,
                                          std::move(pending));
}

void Workload::relocate() {
  header_.backing_path += "/moved/to/another/place";
  backing_paths_.insert(header_.backing_path);
  core::rewrite_header(*disk_.open(std::make_shared<Death>()), header_);
}

void Workload::flush_by(const std::function<void()>& call) {
  const auto began = disk_.log().tick();
  call();
  history_.flushed(began, disk_.log().tick());
}

SectorNumber Workload::pick_sector(TestRandom& random) const {
  const auto last = layout_.sectors - 1;
  const auto offset = std::min(last, random.between(0, hot_sectors));
  switch (random.between(0, 9)) {
    case 0:
      return random.between(0, last);
    case 1:
      return last - offset / 8;
    case 2:
      return std::min(last, 32768 - 8 + offset / 3);  // where the second chunk of the bitmap begins
    default:
      return offset;
  }
}

void Workload::write_once(Subject& subject, const Habits& habits, TestRandom& random) {
  const auto cells = layout_.sectors * cells_per_sector;
  auto first = pick_sector(random) * cells_per_sector;
  auto count = random.between(1, 6) * cells_per_sector;
  if (habits.parts_of_sectors && random.one_in(3)) {
    first = std::min(cells - 1, first + random.between(0, 7));
    count = random.between(1, 20);
  }
  const auto end = std::min(cells, first + count);
  const auto length = (end - first) * cell_bytes;
  const bool zeros = random.one_in(5);
  const auto event = history_.begin(first, end, zeros, disk_.log().tick());
  if (zeros) {
    subject.zero(first * cell_bytes, length);
  } else {
    std::vector<std::byte> bytes(length);
    fill_cells(bytes, first, TagKind::written, event);
    subject.write(first * cell_bytes, bytes);
  }
  history_.end(event, disk_.log().tick());
}

void Workload::write_loop(Subject& subject, const Habits& habits, std::uint64_t stream) {
  TestRandom random(stream);
  for (unsigned i = 0; i < habits.actions; ++i) {
    if (random.one_in(7)) {
      flush_by([&] { subject.flush(); });
    } else {
      write_once(subject, habits, random);
    }
  }
}

void Workload::run(Subject& subject, const Habits& habits) {
  const auto until_dead = [](const auto& work) {
    try {
      work();
    } catch (const std::system_error&) {
      // What was under way is never acknowledged.
    }
  };
  const auto stream = stream_ * 101 + ++runs_ * 11;
  std::vector<std::jthread> threads;
  for (unsigned id = 0; id < habits.writers; ++id) {
    threads.emplace_back(
        [&, id] { until_dead([&] { write_loop(subject, habits, stream + id); }); });
  }
  threads.emplace_back([&] {
    until_dead([&] {
      for (unsigned i = 0; i < habits.flushes; ++i) {
        std::this_thread::yield();
        flush_by([&] { subject.flush(); });
      }
    });
  });
}

}  // namespace cowfs::tests
