//! What data takes in memory: the allocator gives out blocks of certain sizes, and for many short strings the difference is a quarter of
//! them.

/// Bytes that the allocator takes for a block of `len` bytes: multiples of 16 up to 128, then four sizes per doubling.
#[must_use]
pub const fn block(len: usize) -> usize {
    if len == 0 {
        return 0;
    }
    let step = if len <= 128 { 16 } else { len.next_power_of_two() / 8 };
    len.div_ceil(step) * step
}

/// Bytes of a string that is shared by reference count.
#[must_use]
pub const fn shared_str(len: usize) -> usize {
    block(len + 2 * size_of::<usize>())
}

#[cfg(test)]
mod tests {
    use super::block;

    #[test]
    fn blocks_have_the_sizes_of_the_allocator() {
        let sizes = [0, 1, 16, 17, 128, 129, 256, 257, 266, 512, 513, 16_384, 16_385].map(block);
        assert_eq!(sizes, [0, 16, 16, 32, 128, 160, 256, 320, 320, 512, 640, 16_384, 20_480]);
    }
}
