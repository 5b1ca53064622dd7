// Vector traits of 16 lanes for processors without AVX-512, in the shape of vec_avx512.h: the compiler's vector types,
// or loops over lanes. For tests only: they run the kernels in the wide shape, with and without a dot instruction,
// wherever there is AVX2. What is an operation on whole vectors here compiles several times faster than its loop would.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "kernels/layout.h"

namespace weft::kernels {
namespace {

struct Plain16 {
  // In structs, because how bare vectors of 64 bytes are passed depends on the instruction set.
  struct F {
    [[gnu::vector_size(64)]] float at;
  };
  struct Bits {
    [[gnu::vector_size(64)]] uint32_t at;
  };
  struct Mask {
    [[gnu::vector_size(64)]] int32_t at;  // 0 or -1
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
  static F set1(float value) { return {value - F{}.at}; }  // less 0: plus 0 would lose the sign of -0
  static F load(const float* p) { return load_n(p, 16); }
  static void store(float* p, F value) { std::memcpy(p, &value, 64); }
  static Bits load_bits(const void* p) { return load_bits_n(p, 16); }
  static F load_n(const float* p, int n) { return as_float(load_bits_n(p, n)); }
  static Bits load_bits_n(const void* p, int n) {
    Bits r{};
    std::memcpy(&r, p, static_cast<size_t>(n) * 4);
    return r;
  }
  static void store_n(float* p, F value, int n) { std::memcpy(p, &value, static_cast<size_t>(n) * 4); }
  static F add(F a, F b) { return {a.at + b.at}; }
  static F sub(F a, F b) { return {a.at - b.at}; }
  static F mul(F a, F b) { return {a.at * b.at}; }
  static F div(F a, F b) { return {a.at / b.at}; }
  static F fma(F a, F b, F c) {
    __m256 x[2], y[2], z[2];
    std::memcpy(x, &a, 64), std::memcpy(y, &b, 64), std::memcpy(z, &c, 64);
    for (int half = 0; half < 2; ++half) z[half] = _mm256_fmadd_ps(x[half], y[half], z[half]);
    std::memcpy(&c, z, 64);
    return c;
  }
  static void accumulate(F& c, F a, F b) { c = fma(a, b, c); }
  static F max(F a, F b) { return {a.at > b.at ? a.at : b.at}; }
  static F min(F a, F b) { return {a.at < b.at ? a.at : b.at}; }
  static F round(F a) {
    return each<F>([&](int i) { return std::nearbyintf(a.at[i]); });
  }
  static F negate(F a) { return {-a.at}; }
  static F abs(F a) { return as_float(and_bits(as_bits(a), 0x7fffffffu)); }
  static F scale2(F p, F n) {
    const Bits exponents{
        __builtin_convertvector(__builtin_convertvector(n.at, decltype(Mask::at)), decltype(Bits::at))};
    return as_float(add_bits(as_bits(p), shift_left<23>(exponents)));
  }
  static Mask less(F a, F b) { return {a.at < b.at}; }
  static F select(Mask mask, F yes, F no) { return {mask.at ? yes.at : no.at}; }
  static Mask between(int first, int last) {
    return each<Mask>([&](int i) { return i >= first && i < last ? -1 : 0; });
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
  static F even(Bits pairs) { return as_float(shift_left<16>(pairs)); }
  static F odd(Bits pairs) { return as_float(and_bits(pairs, 0xffff0000u)); }
  static Bits and_bits(Bits a, uint32_t mask) { return {a.at & mask}; }
  static F to_float(Bits a) {
    return {__builtin_convertvector(__builtin_convertvector(a.at, decltype(Mask::at)), decltype(F::at))};
  }
  static Bits to_int(F a) {
    return each<Bits>([&](int i) { return static_cast<uint32_t>(static_cast<int32_t>(std::nearbyintf(a.at[i]))); });
  }
  static constexpr bool kLooksUp = true;
  using Levels = F;
  static Levels load_levels(const float* p) { return load(p); }
  static F level(Levels levels, Bits number) {
    return each<F>([&](int i) { return levels.at[number.at[i] & 15]; });
  }
  static Bits set1_bits(int32_t value) { return {Bits{}.at + static_cast<uint32_t>(value)}; }
  static Bits add_bits(Bits a, Bits b) { return {a.at + b.at}; }
  static Bits sub_bits(Bits a, Bits b) { return {a.at - b.at}; }
  static Bits masked_or(Bits a, int32_t mask, Bits b) { return {(a.at & static_cast<uint32_t>(mask)) | b.at}; }
  template <int n>
  static Bits shift_left(Bits a) {
    return {a.at << n};
  }
  template <int n>
  static Bits shift_right(Bits a) {
    return {a.at >> n};
  }
  template <int n>
  static Bits shift_right_signed(Bits a) {
    return {__builtin_convertvector(__builtin_convertvector(a.at, decltype(Mask::at)) >> n, decltype(Bits::at))};
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
  static Bits unsigned_i8(Bits w) { return {w.at ^ 0x80808080u}; }
  static void dot_i8(Bits& acc, Bits, Bits biased, Bits a) { dot_u4(acc, biased, a); }
  static Bits round_bf16(F a) {
    return each<Bits>([&](int i) { return static_cast<uint32_t>(float_to_bf16(a.at[i])) << 16; });
  }
  static F as_float(Bits a) {
    F r;
    std::memcpy(&r, &a, 64);
    return r;
  }
  static Bits as_bits(F a) {
    Bits r;
    std::memcpy(&r, &a, 64);
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
