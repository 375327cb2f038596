use super::*;
use crate::{
    core::identity::Subject,
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

/// Tokens: `edge-any`, `edge-5`, `edge-range` (10 to 19), `edge`, `service`, `service-3`; subjects: `CN=device-*` for edges 100 to
/// 199, `CN=backend` for services with `get_edge_id` only.
fn known() -> Authority {
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
    authority(Some(grants))
}

fn claim(role: Role) -> Claim<'static> {
    let bound = if role == Role::Edge { Bound::Edge } else { Bound::Service };
    Claim { bound, token: b"", subject: None, wished_id: 0, ticket: b"", now: NOW }
}

fn subject(name: &str) -> Arc<Subject> {
    Arc::new(Subject { names: vec![name.to_owned()] })
}

fn id(id: u64) -> Result<Grant, Refusal> {
    Ok(Grant { id, ..Grant::default() })
}

#[test]
fn without_identities_everybody_is_admitted_but_an_edge_gets_no_wish() {
    let open = open();
    assert_eq!(open.decide(&claim(Role::Edge)), id(0));
    assert_eq!(open.decide(&Claim { wished_id: 7, ..claim(Role::Edge) }), id(0));
    assert_eq!(open.decide(&Claim { token: b"whatever", ..claim(Role::Edge) }), id(0));
    assert_eq!(open.decide(&Claim { wished_id: 7, ..claim(Role::Service) }), id(7));
}

#[test]
fn with_identities_one_must_be_shown() {
    let known = known();
    for role in [Role::Edge, Role::Service] {
        assert_eq!(known.decide(&claim(role)), Err(Refusal::NoIdentity));
        assert_eq!(known.decide(&Claim { token: b"wrong", ..claim(role) }), Err(Refusal::UnknownToken));
        let stranger = subject("CN=stranger");
        assert_eq!(
            known.decide(&Claim { subject: Some(&stranger), ..claim(role) }),
            Err(Refusal::UnknownSubject)
        );
    }
    assert_eq!(Refusal::NoIdentity.code(), ErrorCode::Unauthenticated);
    assert_eq!(Refusal::Id.code(), ErrorCode::PermissionDenied);
}

#[test]
fn an_empty_table_admits_nobody() {
    let nobody = authority(Some(Grants::default()));
    assert_eq!(nobody.decide(&claim(Role::Edge)), Err(Refusal::NoIdentity));
}

#[test]
fn a_wrong_token_next_to_a_good_certificate_is_refused() {
    let device = subject("CN=device-1");
    let claim = Claim { token: b"wrong", subject: Some(&device), wished_id: 101, ..claim(Role::Edge) };
    assert_eq!(known().decide(&claim), Err(Refusal::UnknownToken));
}

#[test]
fn a_token_counts_before_the_certificate() {
    let device = subject("CN=device-1");
    let claim = Claim { token: b"edge-5", subject: Some(&device), ..claim(Role::Edge) };
    assert_eq!(known().decide(&claim), id(5));
}

#[test]
fn an_identity_is_for_one_role() {
    let known = known();
    assert_eq!(known.decide(&Claim { token: b"service", ..claim(Role::Edge) }), Err(Refusal::Role));
    assert_eq!(known.decide(&Claim { token: b"edge-any", ..claim(Role::Service) }), Err(Refusal::Role));
    let backend = subject("CN=backend");
    assert_eq!(known.decide(&Claim { subject: Some(&backend), ..claim(Role::Edge) }), Err(Refusal::Role));
}

#[test]
fn ids_are_granted_as_listed() {
    let known = known();
    let ask = |token: &'static str, role, wished_id| {
        known.decide(&Claim { token: token.as_bytes(), wished_id, ..claim(role) })
    };
    assert_eq!(ask("edge-any", Role::Edge, 77), id(77));
    assert_eq!(ask("edge-any", Role::Edge, 0), id(0));
    assert_eq!(ask("edge-5", Role::Edge, 0), id(5));
    assert_eq!(ask("edge-5", Role::Edge, 5), id(5));
    assert_eq!(ask("edge-5", Role::Edge, 6), Err(Refusal::Id));
    assert_eq!(ask("edge-range", Role::Edge, 19), id(19));
    assert_eq!(ask("edge-range", Role::Edge, 20), Err(Refusal::Id));
    assert_eq!(ask("edge-range", Role::Edge, 0), Err(Refusal::NoWish));
    assert_eq!(ask("edge", Role::Edge, 77), id(0));
    assert_eq!(ask("service", Role::Service, 77), id(0), "nobody has listed it");
    assert_eq!(ask("service-3", Role::Service, 0), id(3));
    assert_eq!(ask("service-3", Role::Service, 3), id(3));
    assert_eq!(ask("service-3", Role::Service, 4), Err(Refusal::Id));
}

#[test]
fn certificates_bring_ids_and_reserved_methods() {
    let known = known();
    let (device, backend) = (subject("CN=device-1"), subject("CN=backend"));
    assert_eq!(known.decide(&Claim { subject: Some(&device), wished_id: 150, ..claim(Role::Edge) }), id(150));
    let grant = known.decide(&Claim { subject: Some(&backend), ..claim(Role::Service) }).unwrap();
    assert_eq!(grant.reserved.as_deref(), Some(&["get_edge_id".to_owned()][..]));
}

#[test]
fn a_ticket_grants_the_id_again_and_asks_for_a_greater_epoch() {
    let open = open();
    let ticket = open.ticket(9, 40, NOW);
    let grant = open.decide(&Claim { ticket: &ticket, wished_id: 1, ..claim(Role::Edge) });
    assert_eq!(grant, Ok(Grant { id: 9, epoch: 40, reserved: None }));
    assert_eq!(open.resumed(), 1);
    let last = open.decide(&Claim { ticket: &ticket, now: NOW + LIFE - 1, ..claim(Role::Edge) });
    assert_eq!(last.unwrap().id, 9);
}

#[test]
fn bad_tickets_are_ignored_and_counted() {
    let open = open();
    let ticket = open.ticket(9, 40, NOW);
    assert_eq!(open.decide(&Claim { ticket: &ticket, now: NOW + LIFE, ..claim(Role::Edge) }), id(0));
    assert_eq!(open.decide(&Claim { ticket: b"garbage", ..claim(Role::Edge) }), id(0));
    let forged = Authority::new(
        None,
        TicketKey::new(&[2; 32]),
        Duration::from_secs(LIFE),
        SeededRandom::new(&[3; 32]),
    )
    .ticket(9, 40, NOW);
    assert_eq!(open.decide(&Claim { ticket: &forged, ..claim(Role::Edge) }), id(0));
    for why in [TicketError::Expired, TicketError::Malformed, TicketError::Forged] {
        assert_eq!(open.tickets_ignored(why), 1, "{why}");
    }
    assert_eq!(open.resumed(), 0);
}

#[test]
fn services_have_no_tickets() {
    let open = open();
    let ticket = open.ticket(9, 40, NOW);
    assert_eq!(open.decide(&Claim { ticket: &ticket, ..claim(Role::Service) }), id(0));
}

#[test]
fn a_ticket_needs_the_identity_too() {
    let known = known();
    let ticket = known.ticket(12, 1, NOW);
    let ask = |token: &'static str| {
        known.decide(&Claim { token: token.as_bytes(), ticket: &ticket, ..claim(Role::Edge) })
    };
    assert_eq!(ask(""), Err(Refusal::NoIdentity));
    assert_eq!(ask("edge-5"), Err(Refusal::Id), "somebody else's ticket");
    assert_eq!(ask("edge-range").unwrap().id, 12);
    assert_eq!(ask("edge").unwrap().id, 12);
}

#[test]
fn identities_are_replaced_at_run_time() {
    let authority = open();
    authority.set_grants(Some(Grants::default()));
    assert_eq!(authority.decide(&claim(Role::Edge)), Err(Refusal::NoIdentity));
    authority.set_grants(None);
    assert_eq!(authority.decide(&claim(Role::Edge)), id(0));
}

#[test]
fn the_core_sees_code_and_text_of_a_refusal() {
    let denied = known().admit(&claim(Role::Edge)).unwrap_err();
    assert_eq!(denied, Denied { code: ErrorCode::Unauthenticated, text: "no identity was shown" });
    let wish = Claim { token: b"edge-5", wished_id: 6, ..claim(Role::Edge) };
    assert_eq!(known().admit(&wish).unwrap_err().code, ErrorCode::PermissionDenied);
}
