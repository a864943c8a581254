// A program of somebody else's on the installed library: writes a line into a merged image and
// reads it back after opening it again.

#include <cowcore/cow_image.hpp>
#include <cowcore/create_cow.hpp>
#include <cowcore/open_cow.hpp>
#include <iostream>
#include <string>

namespace {

using namespace cowfs::core;

CowImage open_image(const char* cow, Access access) {
  auto opened = open_cow(cow, std::nullopt, access);
  return {std::move(opened.cow), std::move(opened.backing), opened.layout,
          opened.access == Access::read_only};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const std::string text = argv[3];
  create_cow(argv[1], argv[2], IfExists::refuse);
  {
    auto image = open_image(argv[1], Access::read_write);
    image.write(1000, std::as_bytes(std::span(text)));
    image.flush();
  }
  const auto image = open_image(argv[1], Access::read_only);
  std::string found(text.size(), '\0');
  image.read(1000, std::as_writable_bytes(std::span(found)));
  std::cout << found << "\n";
  return 0;
}
