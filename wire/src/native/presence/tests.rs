use std::collections::BTreeMap;

use proptest::{
    collection::{btree_map, vec},
    prelude::*,
};
use prost::Message;

use super::*;
use crate::native::proto;

fn to_proto(info: &EdgeInfo<'_>) -> proto::EdgeInfo {
    let labels = info.labels().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    proto::EdgeInfo {
        edge: info.edge,
        epoch: info.epoch,
        meta: info.meta.to_vec(),
        addr: info.addr.to_owned(),
        labels,
    }
}

fn labels(map: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> + Clone {
    map.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

prop_compose! {
    fn any_info()(
        edge: u64, epoch: u64, meta in vec(any::<u8>(), 0..200), addr in ".{0,20}",
        labels in btree_map(".{0,8}", ".{0,8}", 0..4),
    ) -> proto::EdgeInfo {
        proto::EdgeInfo { edge, epoch, meta, addr, labels }
    }
}

#[test]
fn page_with_one_malformed_edge_is_refused() {
    let mut page = Vec::new();
    EdgeInfoBuilder::new(1, 1).append_to_page(&mut page);
    assert_eq!(PresencePage::parse(&page).unwrap().count(), 1);
    page.extend([0x0a, 2, 0x0a, 0]);
    assert_eq!(PresencePage::parse(&page).err(), Some(HeadError::WireType { field: 1 }));
}

#[test]
fn empty_page_has_no_edges() {
    assert_eq!(PresencePage::parse(&[]).unwrap().count(), 0);
}

proptest! {
    #[test]
    fn page_is_written_and_read_like_the_reference(edges in vec(any_info(), 0..5)) {
        let mut body = Vec::new();
        for edge in &edges {
            let info = EdgeInfoBuilder::new(edge.edge, edge.epoch)
                .meta(&edge.meta)
                .addr(&edge.addr)
                .labels(labels(&edge.labels));
            let before = body.len();
            info.append_to_page(&mut body);
            prop_assert_eq!(body.len() - before, info.page_len());
            let mut alone = Vec::new();
            info.encode(&mut alone);
            prop_assert_eq!(alone.len(), info.encoded_len());
            prop_assert_eq!(&alone, &edge.encode_to_vec());
        }
        let page = proto::PresencePage { edges };
        prop_assert_eq!(&body, &page.encode_to_vec());
        let read: Vec<proto::EdgeInfo> = PresencePage::parse(&body).unwrap().map(|info| to_proto(&info)).collect();
        prop_assert_eq!(read, page.edges);
    }

    #[test]
    fn any_bytes_are_read_without_panic(body in vec(any::<u8>(), 0..200)) {
        let _ = EdgeInfo::parse(&body).map(|info| info.labels().count());
        let _ = PresencePage::parse(&body).map(Iterator::count);
    }

    #[test]
    fn bent_page_is_refused_or_read_whole(edges in vec(any_info(), 1..4), at: u16, value: u8) {
        let mut body = proto::PresencePage { edges }.encode_to_vec();
        let at = usize::from(at) % body.len();
        body[at] = value;
        if let Ok(page) = PresencePage::parse(&body) {
            let reference = proto::PresencePage::decode(body.as_slice());
            let ours: Vec<proto::EdgeInfo> = page.map(|info| to_proto(&info)).collect();
            prop_assert_eq!(Ok(ours), reference.map(|page| page.edges));
        }
    }
}
