//! Filters, orders and pages of lists.
//!
//! A list of edges takes two looks: the first goes over all sessions and keeps a short key of each match, the second
//! fetches the rows of the wanted page. So the memory of a list is a few dozen bytes per match, whatever edges put
//! into their metadata. Ties are broken by ID: the same page twice shows the same rows while nothing changes.

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use frontier_api::error::ApiError;
use frontier_ops::config::canonical;
use frontier_wire::error::ErrorCode;

use super::{DataPlane, EdgeRow, Scan, ServiceRow};

/// Scans at once; others wait. Each asks every shard for every session.
pub(super) const SCANS: usize = 2;

/// Rows asked of the data plane at once: bounds what one answer costs a shard.
const CHUNK: usize = 1000;

/// Entries of a page at most.
const PAGE_MAX: i64 = 1000;

/// Different names that one list of methods or topics may have: bounds its memory to some tens of MB.
const NAMES_MAX: usize = 100_000;

/// Services that one list may match.
const SERVICES_MAX: usize = 100_000;

/// Bytes of metadata that decide an order by it.
const META_ORDER: usize = 64;

/// A page of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Paging {
    offset: usize,
    size: usize,
}

/// The column that decides the order, and its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) column: Column,
    pub(super) descending: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// edge_id or service_id.
    Id,
    /// addr.
    Addr,
    /// meta, service, rpc or topic: whatever the list calls its text.
    Text,
    /// create_time.
    Time,
}

/// Seconds that count: `[start, end)`, either end open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TimeRange {
    pub(super) start: Option<i64>,
    pub(super) end: Option<i64>,
}

/// Which edges belong to a list; what is `None` holds for all.
#[derive(Clone, Debug, Default)]
pub(super) struct EdgeFilter {
    pub(super) edge_id: Option<u64>,
    pub(super) meta: Option<String>,
    pub(super) addr: Option<String>,
    pub(super) rpc: Option<String>,
    pub(super) time: TimeRange,
}

/// Which services belong to a list.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceFilter {
    pub(super) service_id: Option<u64>,
    pub(super) service: Option<String>,
    pub(super) addr: Option<String>,
    pub(super) rpc: Option<String>,
    pub(super) topic: Option<String>,
    pub(super) time: TimeRange,
}

/// One page and the length of all pages together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    pub(super) total: usize,
}

/// What an entry is sorted by.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    /// The text of the column, if it is one.
    text: Box<[u8]>,
    time: i64,
    id: u64,
}

// === impl Paging ===

impl Paging {
    /// Pages count from 1; zero and less mean the first page, and ten entries.
    pub(super) fn new(page: i64, page_size: i64) -> Self {
        let positive = |number: i64, default: i64| if number > 0 { number } else { default };
        let size = usize::try_from(positive(page_size, 10).min(PAGE_MAX)).unwrap_or(1);
        let before = usize::try_from(positive(page, 1) - 1).unwrap_or(usize::MAX);
        Self { offset: before.saturating_mul(size), size }
    }

    /// The entries of this page out of all, in order.
    fn cut<T>(self, mut all: Vec<T>, compare: impl Fn(&T, &T) -> Ordering) -> Page<T> {
        let total = all.len();
        let end = self.offset.saturating_add(self.size).min(total);
        if self.offset >= total {
            return Page { items: Vec::new(), total };
        }
        // Only the page itself has to be sorted: what comes before it is just moved aside.
        if end < total {
            all.select_nth_unstable_by(end, &compare);
            all.truncate(end);
        }
        if self.offset > 0 {
            all.select_nth_unstable_by(self.offset, &compare);
            all.drain(..self.offset);
        }
        all.sort_unstable_by(compare);
        Page { items: all, total }
    }
}

// === impl Order ===

impl Order {
    /// `-name` descends, `+name` ascends, and `name` does what `natural` says. A name that the list does not have
    /// means the newest first. (A `+` that was not encoded arrives as a space.)
    pub(super) fn parse(text: Option<&str>, columns: &[(&str, Column)], natural_descending: bool) -> Self {
        let text = text.unwrap_or_default();
        let (descending, name) = match text.split_at_checked(1) {
            Some(("-", name)) => (true, name),
            Some(("+" | " ", name)) => (false, name),
            _ => (natural_descending, text),
        };
        match columns.iter().find(|(column, _)| *column == name) {
            Some((_, column)) => Self { column: *column, descending },
            None if name == "create_time" => Self { column: Column::Time, descending },
            None => Self { column: Column::Time, descending: true },
        }
    }

    fn compare(self, a: &Key, b: &Key) -> Ordering {
        let order = match self.column {
            Column::Id => a.id.cmp(&b.id),
            Column::Addr | Column::Text => a.text.cmp(&b.text),
            Column::Time => a.time.cmp(&b.time),
        };
        let order = if self.descending { order.reverse() } else { order };
        order.then_with(|| a.id.cmp(&b.id)).then_with(|| a.text.cmp(&b.text))
    }
}

// === impl TimeRange ===

impl TimeRange {
    fn contains(self, time: i64) -> bool {
        self.start.is_none_or(|start| time >= start) && self.end.is_none_or(|end| time < end)
    }
}

// === impl EdgeFilter ===

impl EdgeFilter {
    fn matches(&self, row: &EdgeRow) -> bool {
        self.edge_id.is_none_or(|id| row.edge_id == id)
            && self.time.contains(row.create_time)
            && begins(self.meta.as_deref(), &row.meta)
            && self.rpc.as_deref().is_none_or(|rpc| row.methods.as_ref().is_some_and(|set| set.contains(rpc)))
            && (self.addr.is_none()
                || begins(self.addr.as_deref(), canonical(row.addr).to_string().as_bytes()))
    }
}

// === impl ServiceFilter ===

impl ServiceFilter {
    fn matches(&self, row: &ServiceRow) -> bool {
        self.service_id.is_none_or(|id| row.service_id == id)
            && self.time.contains(row.create_time)
            && begins(self.service.as_deref(), row.name.as_bytes())
            && self.rpc.as_deref().is_none_or(|rpc| offers(&row.methods, rpc))
            && self.topic.as_deref().is_none_or(|topic| offers(&row.topics, topic))
            && (self.addr.is_none()
                || begins(self.addr.as_deref(), canonical(row.addr).to_string().as_bytes()))
    }
}

/// Whether a text begins so; case does not matter, as it never did here.
fn begins(prefix: Option<&str>, text: &[u8]) -> bool {
    let Some(prefix) = prefix else { return true };
    text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
}

fn offers(names: &[Arc<str>], name: &str) -> bool {
    names.iter().any(|offered| **offered == *name)
}

/// A page of the edges that match.
pub(super) async fn edges<D: DataPlane>(
    data: &D,
    filter: &EdgeFilter,
    order: Order,
    paging: Paging,
) -> Page<EdgeRow> {
    let mut keys = Vec::new();
    each_edge(data, filter, |row| {
        keys.push(edge_key(order.column, &row));
        Ok(())
    })
    .await
    // Pushing a key cannot fail.
    .unwrap_or_default();
    let page = paging.cut(keys, |a, b| order.compare(a, b));
    let ids = page.items.iter().map(|key| key.id).collect();
    Page { items: data.edges_of(ids).await, total: page.total }
}

fn edge_key(column: Column, row: &EdgeRow) -> Key {
    let text: Box<[u8]> = match column {
        Column::Addr => canonical(row.addr).to_string().into_bytes().into(),
        Column::Text => row.meta.get(..META_ORDER).unwrap_or(&row.meta).into(),
        Column::Id | Column::Time => Box::default(),
    };
    Key { text, time: row.create_time, id: row.edge_id }
}

/// A page of the services that match.
pub(super) async fn services<D: DataPlane>(
    data: &D,
    filter: &ServiceFilter,
    order: Order,
    paging: Paging,
) -> Result<Page<ServiceRow>, ApiError> {
    let mut rows = Vec::new();
    each_service(data, filter, |row| {
        if rows.len() == SERVICES_MAX {
            return Err(too_many("services match; filter them"));
        }
        rows.push((service_key(order.column, &row), row));
        Ok(())
    })
    .await?;
    let page = paging.cut(rows, |(a, row_a), (b, row_b)| {
        // Instances may share an ID.
        order.compare(a, b).then_with(|| row_a.addr.cmp(&row_b.addr))
    });
    Ok(Page { items: page.items.into_iter().map(|(_, row)| row).collect(), total: page.total })
}

fn service_key(column: Column, row: &ServiceRow) -> Key {
    let text: Box<[u8]> = match column {
        Column::Addr => canonical(row.addr).to_string().into_bytes().into(),
        Column::Text => row.name.as_bytes().into(),
        Column::Id | Column::Time => Box::default(),
    };
    Key { text, time: row.create_time, id: row.service_id }
}

/// A page of the methods that matching edges offer, each once.
pub(super) async fn edge_methods<D: DataPlane>(
    data: &D,
    filter: &EdgeFilter,
    order: Order,
    paging: Paging,
) -> Result<Page<String>, ApiError> {
    let mut names = Names::default();
    each_edge(data, filter, |row| names.add(row.methods(), row.edge_id, row.create_time)).await?;
    Ok(names.page(order, paging))
}

/// A page of the methods or topics (as `of` picks) of matching services, each once.
pub(super) async fn service_names<D: DataPlane>(
    data: &D,
    filter: &ServiceFilter,
    of: fn(&ServiceRow) -> &[Arc<str>],
    order: Order,
    paging: Paging,
) -> Result<Page<String>, ApiError> {
    let mut names = Names::default();
    each_service(data, filter, |row| names.add(of(&row), row.service_id, row.create_time)).await?;
    Ok(names.page(order, paging))
}

/// Different names, with the least ID and the newest time of those that have them.
#[derive(Default)]
struct Names(HashMap<Arc<str>, (u64, i64)>);

// === impl Names ===

impl Names {
    fn add(&mut self, names: &[Arc<str>], id: u64, time: i64) -> Result<(), ApiError> {
        for name in names {
            if let Some((least, newest)) = self.0.get_mut(name) {
                (*least, *newest) = (id.min(*least), time.max(*newest));
            } else if self.0.len() == NAMES_MAX {
                return Err(too_many("different names; filter by ID or prefix"));
            } else {
                self.0.insert(Arc::clone(name), (id, time));
            }
        }
        Ok(())
    }

    fn page(self, order: Order, paging: Paging) -> Page<String> {
        let keys =
            self.0.into_iter().map(|(name, (id, time))| Key { text: name.as_bytes().into(), time, id });
        let page = paging.cut(keys.collect(), |a, b| order.compare(a, b));
        let text = |key: Key| String::from_utf8_lossy(&key.text).into_owned();
        Page { items: page.items.into_iter().map(text).collect(), total: page.total }
    }
}

fn too_many(what: &str) -> ApiError {
    ApiError::new(ErrorCode::Overloaded, format!("more than {NAMES_MAX} {what}"))
}

/// Visits every edge that matches.
async fn each_edge<D: DataPlane>(
    data: &D,
    filter: &EdgeFilter,
    mut visit: impl FnMut(EdgeRow) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    if let Some(id) = filter.edge_id {
        let row = data.edge(id).await.filter(|row| filter.matches(row));
        return row.map_or(Ok(()), visit);
    }
    let mut cursor = None;
    loop {
        let Scan { rows, next } = data.edges(cursor, CHUNK).await;
        rows.into_iter().filter(|row| filter.matches(row)).try_for_each(&mut visit)?;
        if next.is_none() {
            return Ok(());
        }
        cursor = next;
    }
}

/// Visits every service that matches.
async fn each_service<D: DataPlane>(
    data: &D,
    filter: &ServiceFilter,
    mut visit: impl FnMut(ServiceRow) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    data.services().await.into_iter().filter(|row| filter.matches(row)).try_for_each(&mut visit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_defaults_and_a_cap() {
        for (page, size, offset, expected) in [
            (0, 0, 0, 10),
            (-1, -5, 0, 10),
            (1, 20, 0, 20),
            (3, 20, 40, 20),
            (2, 5000, 1000, 1000),
            (i64::MAX, 1000, usize::MAX, 1000),
            (i64::MIN, i64::MIN, 0, 10),
        ] {
            assert_eq!(Paging::new(page, size), Paging { offset, size: expected }, "{page} {size}");
        }
    }

    #[test]
    fn cut_gives_what_sorting_everything_would() {
        let numbers: Vec<u32> = (0..97).map(|n| n * 31 % 97).collect();
        let sorted: Vec<u32> = (0..97).collect();
        for size in [1, 7, 10, 97, 200] {
            for page in 1..=(97 / size + 2) {
                let paging = Paging::new(page, size);
                let cut = paging.cut(numbers.clone(), u32::cmp);
                let expected: Vec<u32> =
                    sorted.iter().copied().skip(paging.offset).take(paging.size).collect();
                assert_eq!((cut.items, cut.total), (expected, 97), "page {page} of {size}");
            }
        }
    }

    #[test]
    fn orders_are_a_column_and_a_direction() {
        let columns = [("addr", Column::Addr), ("edge_id", Column::Id)];
        for (text, natural, column, descending) in [
            (None, true, Column::Time, true),
            (None, false, Column::Time, true),
            (Some("addr"), true, Column::Addr, true),
            (Some("addr"), false, Column::Addr, false),
            (Some("-addr"), false, Column::Addr, true),
            (Some("+addr"), true, Column::Addr, false),
            (Some(" addr"), true, Column::Addr, false),
            (Some("+edge_id"), true, Column::Id, false),
            (Some("+create_time"), true, Column::Time, false),
            (Some("+colour"), true, Column::Time, true),
            (Some("-"), false, Column::Time, true),
            (Some("é"), false, Column::Time, true),
        ] {
            assert_eq!(Order::parse(text, &columns, natural), Order { column, descending }, "{text:?}");
        }
    }

    #[test]
    fn time_ranges_are_half_open_and_either_end_may_be() {
        let range = |start, end| TimeRange { start, end };
        assert!(range(None, None).contains(0));
        assert!(range(Some(5), None).contains(5) && !range(Some(5), None).contains(4));
        assert!(range(None, Some(5)).contains(4) && !range(None, Some(5)).contains(5));
        assert!(range(Some(4), Some(5)).contains(4) && !range(Some(5), Some(5)).contains(5));
    }

    #[test]
    fn prefixes_ignore_case() {
        assert!(begins(None, b"x") && begins(Some(""), b"") && begins(Some("AB"), b"abc"));
        assert!(!begins(Some("abc"), b"ab") && !begins(Some("b"), b"abc"));
    }

    #[test]
    fn lists_of_names_are_bounded() {
        let mut names = Names::default();
        let many: Vec<Arc<str>> = (0..NAMES_MAX).map(|n| n.to_string().into()).collect();
        names.add(&many, 1, 1).unwrap();
        names.add(&many, 0, 2).unwrap();
        let error = names.add(&["one more".into()], 1, 1).unwrap_err();
        assert_eq!(error.code, ErrorCode::Overloaded);
    }
}
