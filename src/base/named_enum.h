// Enums whose values have names, as options and files spell them. One list per enum, beside its definition:
//
//   enum class Fruit : uint8_t { apple, pear };
//   template <>
//   inline constexpr auto kNames<Fruit> = names_of_all<Fruit>("apple", "pear");  // in the enumerators' order
//
// A list that is shorter or longer than the enum does not compile. The enumerators count up from 0.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weft {

// Specialised by names_of_all().
template <class E>
inline constexpr std::nullptr_t kNames = nullptr;

// Whether the enum has an enumerator of this value: compilers spell one that has none as a cast, "(weft::Fruit)2".
template <class E, E kValue>
constexpr bool has_enumerator() {
  const std::string_view function = __PRETTY_FUNCTION__;
  const std::string_view mark = "kValue = ";
  return function[function.find(mark) + mark.size()] != '(';
}

template <class E, class... Names>
constexpr std::array<const char*, sizeof...(Names)> names_of_all(Names... names) {
  static_assert(has_enumerator<E, static_cast<E>(sizeof...(Names) - 1)>(), "more names than enumerators");
  static_assert(!has_enumerator<E, static_cast<E>(sizeof...(Names))>(), "an enumerator without a name");
  return {names...};
}

template <class E>
constexpr const char* name_of(E value) {
  return kNames<E>[static_cast<size_t>(value)];
}

// Nothing for a text that is no name.
template <class E>
constexpr std::optional<E> value_named(std::string_view name) {
  for (size_t i = 0; i < kNames<E>.size(); ++i)
    if (name == kNames<E>[i]) return static_cast<E>(i);
  return std::nullopt;
}

// In the enumerators' order, for lists of what is possible.
template <class E>
std::vector<std::string> all_names() {
  return {kNames<E>.begin(), kNames<E>.end()};
}

}  // namespace weft
