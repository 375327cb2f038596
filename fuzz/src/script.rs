//! Fuzz input read as a script. Values that are missing at its end are 0, so that every input is one.

/// A cursor over fuzz input.
pub struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    pub fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn u8(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    pub fn usize(&mut self) -> usize {
        self.u16().into()
    }

    /// The next `n` bytes, or what is left.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (front, rest) = self.rest.split_at(n.min(self.rest.len()));
        self.rest = rest;
        front
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let front = self.take(N);
        let mut array = [0; N];
        array[..front.len()].copy_from_slice(front);
        array
    }
}

/// Pseudo-random numbers from a seed in the script: where input is cut, what a body holds.
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number from 1 to `max`.
    pub fn upto(&mut self, max: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as usize % max.max(1) + 1
    }

    pub fn fill(&mut self, out: &mut Vec<u8>, len: usize) {
        let start = self.upto(251) as u8;
        out.extend((0..len).map(|i| start.wrapping_add((i % 251) as u8)));
    }
}
