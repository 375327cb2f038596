use super::*;
use crate::{
    core::identity::{HOLDER_LEN, Subject},
    identity::{SubjectPattern, TokenHash},
};

const NOW: u64 = 1_800_000_000;
const LIFE: u64 = 24 * 3600;

fn authority(grants: Option<Grants>) -> Authority {
    Authority::new(grants, TicketKey::new(&[1; 32]), Duration::from_secs(LIFE), SeededRandom::new(&[3; 32]))
}

fn open() -> Authority {
    authority(None)
}

fn known() -> Authority {
    authority(Some(grants()))
}

/// Tokens: `edge-any`, `edge-5`, `edge-range` (10 to 19), `edge`, `service`, `service-3`; subjects: `CN=device-*` for edges 100 to
/// 199, `CN=backend` for services with `get_edge_id` only.
fn grants() -> Grants {
    let entry = |name: &str, role, ids: &[&str]| {
        let ids = IdSet::parse(ids.iter().copied()).unwrap();
        Arc::new(Entry { name: name.to_owned(), role, ids, reserved: None })
    };
    let mut grants = Grants::default();
    for (token, role, ids) in [
        ("edge-any", Role::Edge, &["*"][..]),
        ("edge-5", Role::Edge, &["5"]),
        ("edge-range", Role::Edge, &["10-19"]),
        ("edge", Role::Edge, &[]),
        ("service", Role::Service, &[]),
        ("service-3", Role::Service, &["3"]),
    ] {
        grants.add_token(TokenHash::of(token.as_bytes()), entry(token, role, ids)).unwrap();
    }
    let devices = entry("devices", Role::Edge, &["100-199"]);
    grants.add_subject(SubjectPattern::parse("CN=device-*").unwrap(), devices);
    let reserved: Arc<[String]> = ["get_edge_id".to_owned()].into();
    let backend = Entry { reserved: Some(reserved), ..(*entry("backend", Role::Service, &[])).clone() };
    grants.add_subject(SubjectPattern::parse("CN=backend").unwrap(), Arc::new(backend));
    grants
}

fn claim(role: Role) -> Claim<'static> {
    let bound = if role == Role::Edge { Bound::Edge } else { Bound::Service };
    Claim { bound, token: b"", subject: None, wished_id: 0, ticket: b"", now: NOW, latest_epoch: u64::MAX }
}

fn subject(name: &str) -> Arc<Subject> {
    Arc::new(Subject { names: vec![name.to_owned()] })
}

/// The ID that somebody is entitled to.
fn id_of(authority: &Authority, claim: &Claim<'_>) -> Result<u64, Objection> {
    authority.decide(claim).map(|grant| grant.id)
}

/// The ticket that somebody gets who is admitted under this ID.
fn ticket(authority: &Authority, claim: &Claim<'_>, edge: u64, epoch: u64) -> Vec<u8> {
    let holder = authority.decide(claim).unwrap().holder;
    authority.ticket(edge, epoch, holder, claim.now)
}

#[test]
fn without_identities_everybody_is_admitted_but_an_edge_gets_no_wish() {
    let open = open();
    assert_eq!(id_of(&open, &claim(Role::Edge)), Ok(0));
    assert_eq!(id_of(&open, &Claim { wished_id: 7, ..claim(Role::Edge) }), Ok(0));
    assert_eq!(id_of(&open, &Claim { token: b"whatever", ..claim(Role::Edge) }), Ok(0));
    assert_eq!(id_of(&open, &Claim { wished_id: 7, ..claim(Role::Service) }), Ok(7));
}

#[test]
fn with_identities_one_must_be_shown() {
    let known = known();
    for role in [Role::Edge, Role::Service] {
        assert_eq!(known.decide(&claim(role)), Err(Objection::NoIdentity));
        assert_eq!(known.decide(&Claim { token: b"wrong", ..claim(role) }), Err(Objection::UnknownToken));
        let stranger = subject("CN=stranger");
        assert_eq!(
            known.decide(&Claim { subject: Some(&stranger), ..claim(role) }),
            Err(Objection::UnknownSubject)
        );
    }
    assert_eq!(Objection::NoIdentity.code(), ErrorCode::Unauthenticated);
    assert_eq!(Objection::Id.code(), ErrorCode::PermissionDenied);
}

#[test]
fn an_empty_table_admits_nobody() {
    let nobody = authority(Some(Grants::default()));
    assert_eq!(nobody.decide(&claim(Role::Edge)), Err(Objection::NoIdentity));
}

#[test]
fn a_wrong_token_next_to_a_good_certificate_is_refused() {
    let device = subject("CN=device-1");
    let claim = Claim { token: b"wrong", subject: Some(&device), wished_id: 101, ..claim(Role::Edge) };
    assert_eq!(known().decide(&claim), Err(Objection::UnknownToken));
}

#[test]
fn a_token_counts_before_the_certificate() {
    let device = subject("CN=device-1");
    let claim = Claim { token: b"edge-5", subject: Some(&device), ..claim(Role::Edge) };
    assert_eq!(id_of(&known(), &claim), Ok(5));
}

#[test]
fn an_identity_is_for_one_role() {
    let known = known();
    assert_eq!(known.decide(&Claim { token: b"service", ..claim(Role::Edge) }), Err(Objection::Role));
    assert_eq!(known.decide(&Claim { token: b"edge-any", ..claim(Role::Service) }), Err(Objection::Role));
    let backend = subject("CN=backend");
    assert_eq!(known.decide(&Claim { subject: Some(&backend), ..claim(Role::Edge) }), Err(Objection::Role));
}

#[test]
fn ids_are_granted_as_listed() {
    let known = known();
    let ask = |token: &'static str, role, wished_id| {
        id_of(&known, &Claim { token: token.as_bytes(), wished_id, ..claim(role) })
    };
    assert_eq!(ask("edge-any", Role::Edge, 77), Ok(77));
    assert_eq!(ask("edge-any", Role::Edge, 0), Ok(0));
    assert_eq!(ask("edge-5", Role::Edge, 0), Ok(5));
    assert_eq!(ask("edge-5", Role::Edge, 5), Ok(5));
    assert_eq!(ask("edge-5", Role::Edge, 6), Err(Objection::Id));
    assert_eq!(ask("edge-range", Role::Edge, 19), Ok(19));
    assert_eq!(ask("edge-range", Role::Edge, 20), Err(Objection::Id));
    assert_eq!(ask("edge-range", Role::Edge, 0), Err(Objection::NoWish));
    assert_eq!(ask("edge", Role::Edge, 77), Ok(0));
    assert_eq!(ask("service", Role::Service, 77), Ok(0), "nobody has listed it");
    assert_eq!(ask("service-3", Role::Service, 0), Ok(3));
    assert_eq!(ask("service-3", Role::Service, 3), Ok(3));
    assert_eq!(ask("service-3", Role::Service, 4), Err(Objection::Id));
}

#[test]
fn certificates_bring_ids_and_reserved_methods() {
    let known = known();
    let (device, backend) = (subject("CN=device-1"), subject("CN=backend"));
    assert_eq!(
        id_of(&known, &Claim { subject: Some(&device), wished_id: 150, ..claim(Role::Edge) }),
        Ok(150)
    );
    let grant = known.decide(&Claim { subject: Some(&backend), ..claim(Role::Service) }).unwrap();
    assert_eq!(grant.reserved.as_deref(), Some(&["get_edge_id".to_owned()][..]));
}

#[test]
fn a_ticket_grants_the_id_again_and_asks_for_a_greater_epoch() {
    let open = open();
    let ticket = ticket(&open, &claim(Role::Edge), 9, 40);
    let grant = open.decide(&Claim { ticket: &ticket, wished_id: 1, ..claim(Role::Edge) });
    assert_eq!(grant, Ok(Grant { id: 9, epoch: 40, ..Grant::default() }));
    assert_eq!(open.resumed(), 1);
    let last =
        open.decide(&Claim { ticket: &ticket, now: NOW + LIFE - 1, latest_epoch: 40, ..claim(Role::Edge) });
    assert_eq!(last.unwrap().id, 9);
}

#[test]
fn bad_tickets_are_ignored_and_counted() {
    let open = open();
    let ticket = ticket(&open, &claim(Role::Edge), 9, 40);
    assert_eq!(id_of(&open, &Claim { ticket: &ticket, now: NOW + LIFE, ..claim(Role::Edge) }), Ok(0));
    assert_eq!(id_of(&open, &Claim { ticket: b"garbage", ..claim(Role::Edge) }), Ok(0));
    let forged = Authority::new(
        None,
        TicketKey::new(&[2; 32]),
        Duration::from_secs(LIFE),
        SeededRandom::new(&[3; 32]),
    )
    .ticket(9, 40, Holder::default(), NOW);
    assert_eq!(id_of(&open, &Claim { ticket: &forged, ..claim(Role::Edge) }), Ok(0));
    let somebodys = open.ticket(9, 40, Holder([1; HOLDER_LEN]), NOW);
    assert_eq!(id_of(&open, &Claim { ticket: &somebodys, ..claim(Role::Edge) }), Ok(0));
    let future = Claim { ticket: &ticket, latest_epoch: 39, ..claim(Role::Edge) };
    assert_eq!(id_of(&open, &future), Ok(0));
    for why in [
        TicketError::Expired,
        TicketError::Malformed,
        TicketError::Forged,
        TicketError::Foreign,
        TicketError::Future,
    ] {
        assert_eq!(open.tickets_ignored(why), 1, "{why}");
    }
    assert_eq!(open.resumed(), 0);
}

#[test]
fn services_have_no_tickets() {
    let open = open();
    let ticket = ticket(&open, &claim(Role::Edge), 9, 40);
    assert_eq!(id_of(&open, &Claim { ticket: &ticket, ..claim(Role::Service) }), Ok(0));
}

#[test]
fn a_ticket_is_good_for_the_token_that_got_it_alone() {
    let known = known();
    let with = |token: &'static str| Claim { token: token.as_bytes(), ..claim(Role::Edge) };
    let ticket = ticket(&known, &with("edge"), 12, 1);
    let show = |claim: Claim<'_>| id_of(&known, &Claim { ticket: &ticket, ..claim });
    assert_eq!(show(with("edge")), Ok(12));
    assert_eq!(show(with("")), Err(Objection::NoIdentity));
    assert_eq!(show(with("edge-5")), Ok(5), "it has an ID of its own");
    assert_eq!(show(with("edge-any")), Ok(0));
    assert_eq!(show(Claim { wished_id: 15, ..with("edge-range") }), Ok(15));
    let device = subject("CN=device-1");
    assert_eq!(show(Claim { subject: Some(&device), wished_id: 101, ..claim(Role::Edge) }), Ok(101));
    assert_eq!((known.tickets_ignored(TicketError::Foreign), known.resumed()), (4, 1));
}

/// One entry fits many certificates: each is an identity of its own.
#[test]
fn a_ticket_is_good_for_the_certificate_subject_that_got_it_alone() {
    let known = known();
    let (one, other) = (subject("CN=device-1"), subject("CN=device-2"));
    let with = |subject| Claim { subject: Some(subject), wished_id: 150, ..claim(Role::Edge) };
    let ticket = ticket(&known, &with(&one), 101, 1);
    assert_eq!(id_of(&known, &Claim { ticket: &ticket, ..with(&one) }), Ok(101));
    assert_eq!(id_of(&known, &Claim { ticket: &ticket, ..with(&other) }), Ok(150));
}

#[test]
fn a_ticket_is_no_way_around_the_ids_of_its_identity() {
    let known = known();
    let with = Claim { token: b"edge-5", ..claim(Role::Edge) };
    // From before its entry was changed.
    let ticket = ticket(&known, &with, 6, 1);
    assert_eq!(id_of(&known, &Claim { ticket: &ticket, ..with }), Err(Objection::Id));
}

#[test]
fn a_ticket_from_before_there_were_identities_is_nobodys() {
    let authority = open();
    let nobodys = ticket(&authority, &claim(Role::Edge), 12, 1);
    authority.set_grants(Some(grants()));
    let with = Claim { token: b"edge", ticket: &nobodys, ..claim(Role::Edge) };
    assert_eq!(id_of(&authority, &with), Ok(0));
}

#[test]
fn identities_are_replaced_at_run_time() {
    let authority = open();
    authority.set_grants(Some(Grants::default()));
    assert_eq!(authority.decide(&claim(Role::Edge)), Err(Objection::NoIdentity));
    authority.set_grants(None);
    assert_eq!(id_of(&authority, &claim(Role::Edge)), Ok(0));
}

#[test]
fn the_core_sees_code_and_text_of_a_refusal() {
    let denied = known().admit(&claim(Role::Edge)).unwrap_err();
    assert_eq!(denied, Denied { code: ErrorCode::Unauthenticated, text: "no identity was shown" });
    let wish = Claim { token: b"edge-5", wished_id: 6, ..claim(Role::Edge) };
    assert_eq!(known().admit(&wish).unwrap_err().code, ErrorCode::PermissionDenied);
}
