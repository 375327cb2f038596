use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    ErrorCode, Peer,
    headers::Headers,
    mailbox::{DialogueId, Mailbox, Note},
};

fn dispatcher(slots: usize, backlog: usize) -> (Arc<Dispatcher>, TaskTracker) {
    let tasks = TaskTracker::new();
    (Arc::new(Dispatcher::new(slots, backlog, tasks.clone(), runtime::Handle::current())), tasks)
}

fn job(mailbox: &Arc<Mailbox>, id: u64, handler: Handler, cancel: CancellationToken) -> Job {
    let responder =
        Responder::new(mailbox.clone(), DialogueId::Session, id, (ErrorCode::Internal, "neglected"));
    let request = Request {
        method: "m".into(),
        body: bytes::Bytes::new(),
        headers: Headers::new(),
        from: Peer::Gateway,
        deadline: None,
        cancel,
    };
    Job { handler, request, responder, turn: None, lane: 0 }
}

fn outcomes(mailbox: &Mailbox) -> Vec<(u64, Option<ErrorCode>)> {
    let mut notes = Vec::new();
    mailbox.take(&mut notes, std::task::Waker::noop());
    let outcome = |note| match note {
        Note::Answer { id, outcome, .. } => (id, outcome.err().map(|error| error.code())),
        other => panic!("{other:?}"),
    };
    notes.into_iter().map(outcome).collect()
}

#[tokio::test]
async fn a_panic_frees_its_slot_and_answers_internal() {
    let (dispatcher, tasks) = dispatcher(1, 10);
    let mailbox = Arc::new(Mailbox::default());
    let boom = Handler::new(|_req| async { if true { panic!("boom") } else { Ok(()) } });
    let fine = Handler::new(|_req| async { Ok(()) });
    dispatcher.submit(job(&mailbox, 1, boom, CancellationToken::new()));
    dispatcher.submit(job(&mailbox, 2, fine.clone(), CancellationToken::new()));
    dispatcher.submit(job(&mailbox, 3, fine, CancellationToken::new()));
    tasks.close();
    tasks.wait().await;
    assert_eq!(outcomes(&mailbox), [(1, Some(ErrorCode::Internal)), (2, None), (3, None)]);
    assert_eq!(dispatcher.state.lock().running, 0);
}

#[tokio::test]
async fn a_job_cancelled_while_it_waits_is_not_run() {
    let (dispatcher, tasks) = dispatcher(1, 10);
    let mailbox = Arc::new(Mailbox::default());
    let gate = Arc::new(Semaphore::new(0));
    let ran = Arc::new(AtomicUsize::new(0));
    let (wait, count) = (gate.clone(), ran.clone());
    let handler = Handler::new(move |_req| {
        let (wait, count) = (wait.clone(), count.clone());
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = wait.acquire().await;
            Ok(())
        }
    });
    let cancel = CancellationToken::new();
    dispatcher.submit(job(&mailbox, 1, handler.clone(), CancellationToken::new()));
    dispatcher.submit(job(&mailbox, 2, handler, cancel.clone()));
    cancel.cancel();
    gate.add_permits(2);
    tasks.close();
    tasks.wait().await;
    assert_eq!(outcomes(&mailbox), [(1, None), (2, Some(ErrorCode::Cancelled))]);
    assert_eq!(ran.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn beyond_the_backlog_is_overloaded_at_once() {
    let (dispatcher, tasks) = dispatcher(1, 1);
    let mailbox = Arc::new(Mailbox::default());
    let gate = Arc::new(Semaphore::new(0));
    let wait = gate.clone();
    let handler = Handler::new(move |_req| {
        let wait = wait.clone();
        async move {
            let _ = wait.acquire().await;
            Ok(())
        }
    });
    for id in 1..=3 {
        dispatcher.submit(job(&mailbox, id, handler.clone(), CancellationToken::new()));
    }
    assert_eq!(outcomes(&mailbox), [(3, Some(ErrorCode::Overloaded))]);
    gate.add_permits(2);
    tasks.close();
    tasks.wait().await;
}
