use super::*;

/// The value of one line.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

#[test]
fn the_process_is_described_as_scrapers_expect() {
    let text = Metrics::new("frontier").encode().unwrap();
    assert!(value(&text, "process_resident_memory_bytes") > 1e6);
    assert!(value(&text, "process_open_fds") >= 3.0);
    assert!(value(&text, "process_max_fds") >= value(&text, "process_open_fds"));
    assert!(value(&text, "process_start_time_seconds") > 1.6e9);
    assert!(value(&text, "process_cpu_seconds_total") >= 0.0);
    #[cfg(feature = "jemalloc")]
    assert!(value(&text, "frontier_allocator_bytes{kind=\"resident\"}") > 0.0);
}

#[test]
fn buckets_of_powers_of_two_keep_every_count() {
    let counts: Vec<u64> = (0..26).collect();
    let latency = Latency::of_powers_of_two(&counts, 0);
    assert_eq!(latency.count(), counts.iter().sum::<u64>());
    let bounds: Vec<f64> = latency.buckets.iter().map(|(bound, _)| *bound).collect();
    assert!(bounds.is_sorted() && bounds.last() == Some(&f64::INFINITY), "{bounds:?}");
    assert_eq!(Latency::of_powers_of_two(&[], 0).count(), 0);
}

#[test]
fn closures_can_report() {
    let metrics = Metrics::new("frontier");
    metrics.register(|| vec![Family::counter("frontier_log_lines_lost", "Log lines lost").row(&[], 3)]);
    assert_eq!(value(&metrics.encode().unwrap(), "frontier_log_lines_lost_total"), 3.0);
}

#[test]
fn times_are_counted_in_the_bucket_they_belong_to() {
    let times = Times::default();
    for micros in [0, 3, 4, 5_000_000_000] {
        times.add(std::time::Duration::from_micros(micros));
    }
    let latency = times.latency();
    let at = |bound: f64| latency.buckets.iter().find(|(upper, _)| *upper == bound).unwrap().1;
    assert_eq!((at(4e-6), at(16e-6), at(f64::INFINITY)), (2, 1, 1));
    assert!((latency.sum_seconds - 5_000.000_007).abs() < 1e-9);
}
