//! Sniffing decides within its bound and never takes a decision back.

use frontier_wire::sniff::{SNIFF_LEN, Sniff, sniff};

pub fn run(data: &[u8]) {
    let first = &data[..data.len().min(2 * SNIFF_LEN)];
    let mut decided = Sniff::NeedMore;
    for end in 0..=first.len() {
        let told = sniff(&first[..end]);
        assert!(decided == Sniff::NeedMore || told == decided, "{decided:?} became {told:?}");
        assert!(end < SNIFF_LEN || told != Sniff::NeedMore);
        decided = told;
    }
    assert!(first.len() == data.len() || sniff(data) == decided);
}
