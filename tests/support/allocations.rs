//! Tells how much memory a piece of work asks for: the global allocator of the test binary counts, per thread.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

#[global_allocator]
static COUNTING: Counting = Counting;

/// The system's allocator, with a count for each thread that wants one.
struct Counting;

#[derive(Clone, Copy)]
struct Count {
    /// May be negative: what was allocated before may be freed now.
    current: isize,
    peak: isize,
}

thread_local! {
    // Neither initialised lazily nor dropped, so that the allocator may use it at any time.
    static COUNT: Cell<Option<Count>> = const { Cell::new(None) };
}

fn note(change: isize) {
    COUNT.with(|cell| {
        if let Some(Count { current, peak }) = cell.get() {
            let current = current + change;
            cell.set(Some(Count { current, peak: peak.max(current) }));
        }
    });
}

// SAFETY: every call is handed on unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }

    /// Counted as if the old and the new block were there at once, which they may be.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note(new_size as isize);
        note(-(layout.size() as isize));
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// Returns the result of `work`, and how many bytes this thread had at most allocated during it, beyond those before.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    COUNT.with(|cell| cell.set(Some(Count { current: 0, peak: 0 })));
    let result = work();
    let peak = COUNT.with(Cell::take).map_or(0, |count| count.peak);
    (result, peak.unsigned_abs())
}
