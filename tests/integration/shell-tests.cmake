# The shell tests of this directory. Each counts for two, since it keeps several processes busy.

function(cowfs_shell_test name script)
  add_test(NAME ${name} COMMAND ${CMAKE_CURRENT_LIST_DIR}/${script} ${ARGN})
  set_tests_properties(${name} PROPERTIES
    LABELS integration
    ENVIRONMENT "COWFS=$<TARGET_FILE:cowfs>;BUILD=${PROJECT_BINARY_DIR}"
    SKIP_RETURN_CODE 77
    PROCESSORS 2
    TIMEOUT 900)
endfunction()

foreach(fs IN ITEMS ext4 xfs btrfs)
  foreach(mode IN ITEMS buffered direct)
    cowfs_shell_test(loop-${fs}-${mode} loop-file-system.sh ${fs} ${mode})
  endforeach()
endforeach()
cowfs_shell_test(loop-golden-image loop-golden-image.sh)
cowfs_shell_test(loop-coherence loop-coherence.sh)

cowfs_shell_test(qemu-io-patterns qemu-io-patterns.sh)
cowfs_shell_test(qemu-img-sparse qemu-img-sparse.sh)

cowfs_shell_test(fio-psync-buffered fio-verify.sh psync buffered)
cowfs_shell_test(fio-psync-direct fio-verify.sh psync direct)
cowfs_shell_test(fio-psync-uncached fio-verify.sh psync buffered none)
cowfs_shell_test(fio-psync-kernel-cached fio-verify.sh psync buffered kernel)
cowfs_shell_test(fio-libaio-direct fio-verify.sh libaio direct)
cowfs_shell_test(fio-io_uring-buffered fio-verify.sh io_uring buffered)
cowfs_shell_test(fio-io_uring-direct fio-verify.sh io_uring direct)
cowfs_shell_test(fio-mmap-buffered fio-verify.sh mmap buffered)
cowfs_shell_test(fio-mmap-uncached fio-verify.sh mmap buffered none)

cowfs_shell_test(kill-worker-fio kill-worker-fio.sh)
foreach(mode IN ITEMS buffered direct)
  cowfs_shell_test(kill-worker-loop-${mode} kill-worker-loop.sh ${mode})
endforeach()

cowfs_shell_test(merge-fixtures merge-fixtures.sh)
cowfs_shell_test(merge-refusals merge-refusals.sh)
cowfs_shell_test(merge-killed merge-killed.sh)
foreach(fs IN ITEMS ext4 xfs btrfs)
  cowfs_shell_test(merge-${fs} merge-file-systems.sh ${fs})
endforeach()

foreach(use IN ITEMS tree build git rsync tar system find)
  cowfs_shell_test(export-${use} export-real-use.sh ${use})
endforeach()
cowfs_shell_test(export-sqlite export-sqlite.sh)
cowfs_shell_test(export-killed export-killed.sh)
cowfs_shell_test(export-stress export-stress.sh)
set_property(TEST export-stress PROPERTY RUN_SERIAL ON) # it takes what there is, and has the page cache dropped

cowfs_shell_test(huge-image huge-image.sh)
cowfs_shell_test(installed-library installed-library.sh)
cowfs_shell_test(look-tools look-tools.sh)
cowfs_shell_test(man-pages man-pages.sh)
cowfs_shell_test(readme-recipes readme-recipes.sh)
set_property(TEST readme-recipes PROPERTY FIXTURES_REQUIRED uml-guest) # from ../interop
set_property(TEST readme-recipes APPEND PROPERTY ENVIRONMENT
  "UML_GUEST=${PROJECT_BINARY_DIR}/tests/interop/guest")
