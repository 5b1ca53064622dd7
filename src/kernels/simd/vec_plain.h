// Vector traits without intrinsics: arrays of 16 lanes, in the shape of vec_avx512.h. For tests only: they run the
// kernels in the wide shape, with and without a dot instruction, on any machine.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "kernels/layout.h"

namespace weft::kernels {
namespace {

struct Plain16 {
  struct F {
    float at[16];
  };
  struct Bits {
    uint32_t at[16];
  };
  struct Mask {
    bool at[16];
  };
  static constexpr int kLanes = 16;
  static constexpr int kPanelVectors = 4;
  static constexpr bool kDot = false;
  static constexpr int kFreeRegisters = 24;

  template <class R, class Fn>
  static R each(Fn fn) {
    R r;
    for (int i = 0; i < 16; ++i) r.at[i] = fn(i);
    return r;
  }
  static F zero() { return set1(0); }
  static F set1(float value) {
    return each<F>([&](int) { return value; });
  }
  static F load(const float* p) { return load_n(p, 16); }
  static void store(float* p, F value) { std::memcpy(p, value.at, 64); }
  static Bits load_bits(const void* p) { return load_bits_n(p, 16); }
  static F load_n(const float* p, int n) { return as_float(load_bits_n(p, n)); }
  static Bits load_bits_n(const void* p, int n) {
    Bits r{};
    std::memcpy(r.at, p, static_cast<size_t>(n) * 4);
    return r;
  }
  static void store_n(float* p, F value, int n) { std::memcpy(p, value.at, static_cast<size_t>(n) * 4); }
  static F add(F a, F b) {
    return each<F>([&](int i) { return a.at[i] + b.at[i]; });
  }
  static F sub(F a, F b) {
    return each<F>([&](int i) { return a.at[i] - b.at[i]; });
  }
  static F mul(F a, F b) {
    return each<F>([&](int i) { return a.at[i] * b.at[i]; });
  }
  static F div(F a, F b) {
    return each<F>([&](int i) { return a.at[i] / b.at[i]; });
  }
  static F fma(F a, F b, F c) {
    return each<F>([&](int i) { return std::fma(a.at[i], b.at[i], c.at[i]); });
  }
  static void accumulate(F& c, F a, F b) { c = fma(a, b, c); }
  static F max(F a, F b) {
    return each<F>([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
  }
  static F min(F a, F b) {
    return each<F>([&](int i) { return a.at[i] < b.at[i] ? a.at[i] : b.at[i]; });
  }
  static F round(F a) {
    return each<F>([&](int i) { return std::nearbyintf(a.at[i]); });
  }
  static F negate(F a) {
    return each<F>([&](int i) { return -a.at[i]; });
  }
  static F abs(F a) {
    return each<F>([&](int i) { return std::fabs(a.at[i]); });
  }
  static F scale2(F p, F n) {
    const Bits bits = as_bits(p);
    return as_float(
        each<Bits>([&](int i) { return bits.at[i] + (static_cast<uint32_t>(static_cast<int32_t>(n.at[i])) << 23); }));
  }
  static Mask less(F a, F b) {
    return each<Mask>([&](int i) { return a.at[i] < b.at[i]; });
  }
  static F select(Mask mask, F yes, F no) {
    return each<F>([&](int i) { return mask.at[i] ? yes.at[i] : no.at[i]; });
  }
  static Mask between(int first, int last) {
    return each<Mask>([&](int i) { return i >= first && i < last; });
  }
  static float sum(F a) {
    for (int width = 8; width > 0; width /= 2)
      for (int i = 0; i < width; ++i) a.at[i] += a.at[i + width];
    return a.at[0];
  }
  static float largest(F a) {
    for (int i = 1; i < 16; ++i) a.at[0] = a.at[i] > a.at[0] ? a.at[i] : a.at[0];
    return a.at[0];
  }
  static F even(Bits pairs) {
    return as_float(each<Bits>([&](int i) { return pairs.at[i] << 16; }));
  }
  static F odd(Bits pairs) { return as_float(and_bits(pairs, 0xffff0000u)); }
  static Bits and_bits(Bits a, uint32_t mask) {
    return each<Bits>([&](int i) { return a.at[i] & mask; });
  }
  static F to_float(Bits a) {
    return each<F>([&](int i) { return static_cast<float>(static_cast<int32_t>(a.at[i])); });
  }
  static Bits to_int(F a) {
    return each<Bits>([&](int i) { return static_cast<uint32_t>(static_cast<int32_t>(std::nearbyintf(a.at[i]))); });
  }
  static Bits set1_bits(int32_t value) {
    return each<Bits>([&](int) { return static_cast<uint32_t>(value); });
  }
  static Bits add_bits(Bits a, Bits b) {
    return each<Bits>([&](int i) { return a.at[i] + b.at[i]; });
  }
  static Bits sub_bits(Bits a, Bits b) {
    return each<Bits>([&](int i) { return a.at[i] - b.at[i]; });
  }
  static Bits or_bits(Bits a, Bits b) {
    return each<Bits>([&](int i) { return a.at[i] | b.at[i]; });
  }
  template <int n>
  static Bits shift_left(Bits a) {
    return each<Bits>([&](int i) { return a.at[i] << n; });
  }
  template <int n>
  static Bits shift_right(Bits a) {
    return each<Bits>([&](int i) { return a.at[i] >> n; });
  }
  template <int n>
  static Bits shift_right_signed(Bits a) {
    return each<Bits>([&](int i) { return static_cast<uint32_t>(static_cast<int32_t>(a.at[i]) >> n); });
  }
  template <class T>
  static T element(const void* p, int i) {
    T value;
    std::memcpy(&value, static_cast<const char*>(p) + static_cast<size_t>(i) * sizeof(T), sizeof(T));
    return value;
  }
  static Bits load_u8(const void* p) {
    return each<Bits>([&](int i) { return uint32_t{element<uint8_t>(p, i)}; });
  }
  static Bits load_i8(const void* p) {
    return each<Bits>([&](int i) { return static_cast<uint32_t>(int32_t{element<int8_t>(p, i)}); });
  }
  static F load_bf16(const void* p) {
    return each<F>([&](int i) { return bf16_to_float(element<uint16_t>(p, i)); });
  }
  static F load_f16(const void* p) {
    return each<F>([&](int i) { return f16_to_float(element<uint16_t>(p, i)); });
  }
  static void store_i8(int8_t* p, Bits a) {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.at[i]);
  }
  // Sums of four products of bytes, in the shape of VNNI: unsigned weights, biased for int8.
  static int byte_of(Bits a, int lane, int b) { return static_cast<int>(a.at[lane] >> (8 * b) & 255u); }
  [[gnu::noinline]] static void dot_u4(Bits& acc, Bits u, Bits a) {
    for (int i = 0; i < 16; ++i)
      for (int b = 0; b < 4; ++b)
        acc.at[i] += static_cast<uint32_t>(byte_of(u, i, b) * static_cast<int8_t>(byte_of(a, i, b)));
  }
  static Bits sum_u4(Bits acc) { return acc; }
  static constexpr int kBiasI8 = 128;
  static Bits unsigned_i8(Bits w) {
    return each<Bits>([&](int i) { return w.at[i] ^ 0x80808080u; });
  }
  static void dot_i8(Bits& acc, Bits, Bits biased, Bits a) { dot_u4(acc, biased, a); }
  static Bits round_bf16(F a) {
    return each<Bits>([&](int i) { return static_cast<uint32_t>(float_to_bf16(a.at[i])) << 16; });
  }
  static F as_float(Bits a) {
    F r;
    std::memcpy(r.at, a.at, 64);
    return r;
  }
  static Bits as_bits(F a) {
    Bits r;
    std::memcpy(r.at, a.at, 64);
    return r;
  }
  static void store_bf16(uint16_t* p, F a) {
    for (int i = 0; i < 16; ++i) p[i] = float_to_bf16(a.at[i]);
  }
};

struct Plain16Dot : Plain16 {
  static constexpr bool kDot = true;
  static F dot(F c, Bits a, Bits b) { return fma(even(a), even(b), fma(odd(a), odd(b), c)); }
};

}  // namespace
}  // namespace weft::kernels
