//! Memory for when the system has none left. Rust ends the process where an allocation fails, so this crate's allocator
//! (memory.rs) goes on in a reserve: a call of the interface that is under way gets to its end, and new ones are
//! refused (abi.rs) while less than half of the reserve is left. It is part of the program's zeroed memory, which takes
//! no pages before it is used. What is given back can be taken again: a call that lasts while memory is missing needs
//! as much as it holds, not as much as it has ever asked for.
use std::alloc::Layout;
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const SIZE: usize = 64 << 20;
const UNIT: usize = 64; // bytes; blocks are of whole units
const UNITS: usize = SIZE / UNIT;
const MOST_ALIGNED: usize = 4096;

#[repr(align(4096))]
struct Pool(UnsafeCell<[u8; SIZE]>);
// SAFETY: blocks are handed out under the lock, each to one owner.
unsafe impl Sync for Pool {}

/// A bit for each unit: it is in use. `lowest`: all units below it are.
struct Map {
    words: [u64; UNITS / 64],
    lowest: usize,
}

struct Shared(UnsafeCell<Map>);
// SAFETY: used under the lock alone.
unsafe impl Sync for Shared {}

static POOL: Pool = Pool(UnsafeCell::new([0; SIZE]));
static MAP: Shared = Shared(UnsafeCell::new(Map { words: [0; UNITS / 64], lowest: 0 }));
static LOCK: AtomicBool = AtomicBool::new(false);
static USED: AtomicUsize = AtomicUsize::new(0); // units

/// The map, while nobody else has it.
struct Locked(&'static mut Map);

impl Locked {
    fn new() -> Self {
        while LOCK.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            std::hint::spin_loop();
        }
        // SAFETY: the lock is held until this is dropped.
        Locked(unsafe { &mut *MAP.0.get() })
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        LOCK.store(false, Ordering::Release);
    }
}

/// The words of the units `first` to `end`, the last word first: its index, and its bits that are of these units.
fn words_of(first: usize, end: usize) -> impl Iterator<Item = (usize, u64)> {
    (first / 64..end.div_ceil(64)).rev().map(move |word| {
        let from = first.saturating_sub(word * 64);
        let until = (end - word * 64).min(64);
        (word, (u64::MAX << from) & (u64::MAX >> (64 - until)))
    })
}

impl Map {
    fn last_used(&self, first: usize, end: usize) -> Option<usize> {
        words_of(first, end).find_map(|(word, bits)| {
            let used = self.words[word] & bits;
            (used != 0).then(|| word * 64 + 63 - used.leading_zeros() as usize)
        })
    }

    /// The first place for so many units in a row at a multiple of `step`.
    fn find(&self, units: usize, step: usize) -> Option<usize> {
        let mut first = self.lowest.next_multiple_of(step);
        while first + units <= UNITS {
            match self.last_used(first, first + units) {
                None => return Some(first),
                Some(used) => first = (used + 1).next_multiple_of(step),
            }
        }
        None
    }

    fn take(&mut self, units: usize, step: usize) -> Option<usize> {
        let first = self.find(units, step)?;
        for (word, bits) in words_of(first, first + units) {
            self.words[word] |= bits;
        }
        if first == self.lowest {
            self.lowest = first + units;
        }
        Some(first)
    }

    fn give_back(&mut self, first: usize, units: usize) {
        for (word, bits) in words_of(first, first + units) {
            self.words[word] &= !bits;
        }
        self.lowest = self.lowest.min(first);
    }
}

fn start() -> *mut u8 {
    POOL.0.get().cast()
}

fn units_of(layout: Layout) -> usize {
    layout.size().div_ceil(UNIT).max(1)
}

/// A block from the reserve, zeroed where `zero` says so; null: there is not so much left.
pub fn take(layout: Layout, zero: bool) -> *mut u8 {
    if layout.align() > MOST_ALIGNED || layout.size() > SIZE {
        return std::ptr::null_mut();
    }
    let Some(first) = Locked::new().0.take(units_of(layout), layout.align().div_ceil(UNIT)) else {
        return std::ptr::null_mut();
    };
    USED.fetch_add(units_of(layout), Ordering::Relaxed);
    // SAFETY: these units are inside the pool, and nobody else has them.
    unsafe {
        let block = start().add(first * UNIT);
        if zero {
            block.write_bytes(0, layout.size());
        }
        block
    }
}

pub fn owns(block: *mut u8) -> bool {
    (block as usize).wrapping_sub(start() as usize) < SIZE
}

/// Of a block that it owns, with the layout that it was taken with.
pub fn give_back(block: *mut u8, layout: Layout) {
    let first = (block as usize - start() as usize) / UNIT;
    Locked::new().0.give_back(first, units_of(layout));
    USED.fetch_sub(units_of(layout), Ordering::Relaxed);
}

/// Whether enough is left for another call.
pub fn suffices() -> bool {
    USED.load(Ordering::Relaxed) <= UNITS / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    // One test, since there is one reserve.
    #[test]
    fn hands_out_what_is_free_and_takes_it_back() {
        let small = layout(100, 64);
        let (a, b) = (take(small, true), take(small, false));
        assert!(owns(a) && owns(b) && a as usize % 64 == 0 && b as usize >= a as usize + 100);
        assert!(suffices() && !owns(Box::into_raw(Box::new(1u8))));
        let half = layout(SIZE / 2, 16);
        let c = take(half, false);
        assert!(owns(c) && !suffices());
        assert!(take(half, false).is_null(), "there is not so much left");
        assert!(take(layout(isize::MAX as usize - 15, 16), false).is_null());
        assert!(take(layout(1, 2 * MOST_ALIGNED), false).is_null());

        // The place of what came back is used again, while its neighbours stay.
        unsafe { a.write_bytes(0xff, 100) };
        give_back(a, small);
        let wide = take(layout(129, 8), false);
        assert!(wide > c, "three units do not fit into two");
        assert_eq!(take(small, true), a);
        assert!((0..100).all(|i| unsafe { *a.add(i) } == 0));
        let page = layout(5, 4096);
        let aligned = take(page, false);
        assert!(aligned as usize % 4096 == 0 && owns(aligned));

        for (block, of) in [(a, small), (b, small), (c, half), (wide, layout(129, 8)), (aligned, page)] {
            give_back(block, of);
        }
        assert_eq!(USED.load(Ordering::Relaxed), 0);
        let all = take(layout(SIZE, 4096), false);
        assert!(owns(all) && take(layout(0, 1), false).is_null());
        give_back(all, layout(SIZE, 4096));
    }

    #[test]
    fn many_blocks_of_all_sizes_lie_apart() {
        let mut map = Box::new(Map { words: [0; UNITS / 64], lowest: 0 });
        let mut held: Vec<(usize, usize)> = Vec::new();
        let mut state = 1u64;
        let mut draw = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        for _ in 0..2000 {
            if held.len() > 100 || (draw(3) == 0 && !held.is_empty()) {
                let (first, units) = held.swap_remove(draw(held.len()));
                map.give_back(first, units);
                continue;
            }
            let (units, step) = (1 + draw(300), 1 << draw(7));
            let first = map.take(units, step).unwrap();
            assert_eq!(first % step, 0);
            assert!(held.iter().all(|&(other, size)| first + units <= other || other + size <= first));
            held.push((first, units));
        }
        let used: usize = held.iter().map(|&(_, units)| units).sum();
        assert_eq!(map.words.iter().map(|word| word.count_ones() as usize).sum::<usize>(), used);
    }
}
