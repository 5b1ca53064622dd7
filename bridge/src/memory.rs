//! Counts the heap bytes that each thread holds, so that the size of a compiled grammar is known exactly: what a
//! compilation has allocated and not freed. Only Rust's allocations come here; the cost is an addition each. Where the
//! system has no memory, the reserve serves.
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use crate::reserve;

struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn add(bytes: isize) {
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged, or, where that has nothing, to the reserve; blocks go
// back to where they came from.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        let block = System.alloc(layout);
        if block.is_null() {
            return reserve::take(layout, false);
        }
        block
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        let block = System.alloc_zeroed(layout);
        if block.is_null() {
            return reserve::take(layout, true);
        }
        block
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        if reserve::owns(block) {
            return reserve::give_back(block, layout);
        }
        System.dealloc(block, layout)
    }
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size as isize - layout.size() as isize);
        let mut moved = std::ptr::null_mut();
        if !reserve::owns(block) {
            moved = System.realloc(block, layout, size);
        }
        if !moved.is_null() {
            return moved;
        }
        let new = Layout::from_size_align_unchecked(size, layout.align());
        moved = if reserve::owns(block) { System.alloc(new) } else { moved };
        if moved.is_null() {
            moved = reserve::take(new, false);
        }
        if !moved.is_null() {
            std::ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
            if reserve::owns(block) {
                reserve::give_back(block, layout);
            } else {
                System.dealloc(block, layout);
            }
        }
        moved
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Measures this thread from `start` on.
pub struct Measure {
    start: isize,
}

impl Measure {
    pub fn start() -> Self {
        let start = HELD.with(Cell::get);
        PEAK.with(|peak| peak.set(start));
        Measure { start }
    }
    /// Bytes allocated since, and not freed.
    pub fn held(&self) -> usize {
        (HELD.with(Cell::get) - self.start).max(0) as usize
    }
    /// The most that `held` was.
    pub fn peak(&self) -> usize {
        (PEAK.with(Cell::get) - self.start).max(0) as usize
    }
}
