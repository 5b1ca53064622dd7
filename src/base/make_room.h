// Room in a vector before anything is changed, so that what follows cannot fail for want of memory.
#pragma once

#include <algorithm>
#include <cstddef>

namespace weft {

// Room for `more` elements behind those that are there; grows by doubling, as push_back would. On an exception
// (std::bad_alloc) the vector is as it was.
template <class Vector>
void make_room(Vector& vector, size_t more) {
  const size_t needed = vector.size() + more;
  if (needed > vector.capacity()) vector.reserve(std::max(needed, 2 * vector.capacity()));
}

}  // namespace weft
