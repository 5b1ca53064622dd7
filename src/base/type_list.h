// A list of types, for what follows from one list in several places.
#pragma once

#include <cstddef>
#include <type_traits>

namespace weft {

template <class... T>
struct TypeList {};

// Calls f.template operator()<T>() for each type of the list in turn.
template <class... T, class F>
constexpr void for_each_type(TypeList<T...>, F f) {
  (f.template operator()<T>(), ...);
}

template <class... T>
constexpr size_t size(TypeList<T...>) {
  return sizeof...(T);
}

template <class Wanted, class... T>
constexpr bool contains(TypeList<T...>) {
  return (std::is_same_v<Wanted, T> || ...);
}

}  // namespace weft
