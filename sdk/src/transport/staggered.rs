//! Attempts at several network addresses of one host, so that one that does not answer takes no time from the others (RFC 8305).

use std::{collections::VecDeque, io, net::SocketAddr, time::Duration};

use tokio::{task::JoinSet, time::sleep};

/// Head start of each attempt over the next one (RFC 8305 section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// The first connection to any of `addresses`. The next attempt begins when one has failed or has had its head start; those that come
/// too late are dropped.
///
/// # Errors
/// That of the last attempt to fail, when all have.
pub(super) async fn first<T, F>(
    addresses: impl IntoIterator<Item = SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let mut waiting = alternating(addresses);
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        if let Some(address) = waiting.pop_front() {
            attempts.spawn(connect(address));
        }
        tokio::select! {
            biased;
            Some(outcome) = attempts.join_next() => match outcome {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => failure = error,
                Err(error) => failure = io::Error::other(error),
            },
            () = sleep(HEAD_START), if !waiting.is_empty() => {}
            else => return Err(failure),
        }
    }
}

/// The families in turns, beginning with that of the first address: often it is a whole family that does not get through.
fn alternating(addresses: impl IntoIterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let mut queues = [VecDeque::new(), VecDeque::new()];
    let mut first = None;
    for address in addresses {
        let same = *first.get_or_insert_with(|| address.is_ipv4()) == address.is_ipv4();
        let [ours, others] = &mut queues;
        if same { ours.push_back(address) } else { others.push_back(address) }
    }
    let [mut ours, mut others] = queues;
    let mut all = VecDeque::with_capacity(ours.len() + others.len());
    while !(ours.is_empty() && others.is_empty()) {
        all.extend(ours.pop_front());
        all.extend(others.pop_front());
    }
    all
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::time::Instant;

    use super::*;

    fn v4(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn v6(port: u16) -> SocketAddr {
        (std::net::Ipv6Addr::LOCALHOST, port).into()
    }

    /// Ports below 10 never answer, those below 20 refuse, others answer after a second.
    async fn answer(address: SocketAddr) -> io::Result<SocketAddr> {
        match address.port() {
            ..10 => std::future::pending().await,
            10..20 => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => {
                sleep(Duration::from_secs(1)).await;
                Ok(address)
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_never_answers_costs_its_head_start_only() {
        let start = Instant::now();
        assert_eq!(first([v4(1), v4(2), v4(20), v4(21)], answer).await.unwrap(), v4(20));
        assert_eq!(start.elapsed(), 2 * HEAD_START + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_refuses_costs_nothing_and_the_last_refusal_is_told() {
        let start = Instant::now();
        assert_eq!(first([v4(10), v4(20)], answer).await.unwrap(), v4(20));
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        let refused = first([v4(10), v4(11)], answer).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(first([], answer).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_address_still_wins_if_the_others_are_worse() {
        let tried = Arc::new(Mutex::new(Vec::new()));
        let seen = tried.clone();
        let connect = move |address| {
            seen.lock().push(address);
            answer(address)
        };
        assert_eq!(first([v4(20), v4(10), v4(1)], connect).await.unwrap(), v4(20));
        assert_eq!(*tried.lock(), [v4(20), v4(10), v4(1)]);
    }

    #[test]
    fn families_take_turns() {
        let order = alternating([v6(1), v6(2), v6(3), v4(1)]);
        assert_eq!(order, [v6(1), v4(1), v6(2), v6(3)]);
    }
}
