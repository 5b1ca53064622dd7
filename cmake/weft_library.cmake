# weft_library(plan SOURCES a.cc b.cc [PUBLIC core base] [PRIVATE text] [LINK lib] [TESTS a_test.cc])
#
# Makes the static library weft_plan of src/plan, and the test program test_plan from TESTS (unit tests lie beside their
# source). PUBLIC are the folders that its headers include, PRIVATE those that only its .cc files include; LINK are
# targets that are no folders of ours, for its .cc files alone.
#
# A folder's headers are reached through a link of the build tree, src/plan/include/plan -> the sources of plan, which
# is on the include path of the folder itself and of those that name it. So the compiler finds no header of a folder
# that is neither named here nor passed on as PUBLIC by one that is; the full rule is the table of docs/architecture.md
# (scripts/check_layers).
function(weft_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;PUBLIC;PRIVATE;TESTS;LINK" ${ARGN})
  if(ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "weft_library(${name}): unknown arguments ${ARG_UNPARSED_ARGUMENTS}")
  endif()
  list(TRANSFORM ARG_PUBLIC PREPEND weft_)
  list(TRANSFORM ARG_PRIVATE PREPEND weft_)
  set(include ${CMAKE_CURRENT_BINARY_DIR}/include)
  file(MAKE_DIRECTORY ${include})
  file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR} ${include}/${name} SYMBOLIC)

  add_library(weft_${name} STATIC ${ARG_SOURCES})
  target_compile_features(weft_${name} PUBLIC cxx_std_20)
  target_include_directories(weft_${name} PUBLIC ${include})
  target_link_libraries(weft_${name} PUBLIC ${ARG_PUBLIC} Threads::Threads PRIVATE ${ARG_PRIVATE} ${ARG_LINK})
  if(WEFT_TESTS AND ARG_TESTS)
    add_executable(test_${name} ${ARG_TESTS})
    target_link_libraries(test_${name} weft_${name} ${ARG_PRIVATE})
    weft_test(test_${name} ${name} TIMEOUT 600)
  endif()
endfunction()

# weft_test(test_plan plan [LABELS slow] [TIMEOUT 120] [...])
#
# Registers every test of a GoogleTest program with ctest as plan/SUITE.TEST. LABELS is `fast` unless said otherwise:
# scripts/test runs the fast ones first, and only those under the sanitizers. TEST_FILTER, DISCOVERY_MODE, ENVIRONMENT:
# as in CMake.
function(weft_test target prefix)
  cmake_parse_arguments(ARG "" "LABELS;TIMEOUT;TEST_FILTER;DISCOVERY_MODE;ENVIRONMENT" "" ${ARGN})
  set(discovery DISCOVERY_TIMEOUT 60 TEST_PREFIX "${prefix}/")
  foreach(option TEST_FILTER DISCOVERY_MODE)
    if(ARG_${option})
      list(APPEND discovery ${option} ${ARG_${option}})
    endif()
  endforeach()
  set(properties)
  foreach(property TIMEOUT ENVIRONMENT)
    if(ARG_${property})
      list(APPEND properties ${property} ${ARG_${property}})
    endif()
  endforeach()
  if(NOT ARG_LABELS)
    set(ARG_LABELS fast)
  endif()
  target_link_libraries(${target} GTest::gtest_main)
  target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)  # compiles in two thirds of the time of -O2
  gtest_discover_tests(${target} ${discovery} PROPERTIES LABELS ${ARG_LABELS} ${properties})
endfunction()
