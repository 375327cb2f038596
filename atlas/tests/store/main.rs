//! Every store keeps the same rules: the one in memory, and the one on a real Redis, alone, behind sentinels and as a cluster. And what
//! becomes of the store on Redis when a server is in trouble.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod changes;
mod cluster;
mod rules;
mod sentinel;
mod server;
mod tls;
mod trouble;

use frontier_atlas::store::Memory;

/// A rule for each store.
macro_rules! rules {
    ($($rule:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $rule() {
                super::rules::$rule(&super::Memory::new()).await;
            })*
        }

        mod redis {
            $(#[tokio::test]
            async fn $rule() {
                let server = super::server::Server::start(&[]);
                super::rules::$rule(&server.connect().await).await;
            })*
        }

        /// All of them, on a store that takes long to start; `clear` empties it before each.
        async fn every_rule(store: &impl frontier_atlas::store::Store, clear: impl Fn()) {
            $(clear();
            Box::pin(rules::$rule(store)).await;)*
        }
    };
}

rules![
    the_greater_claim_has_an_edge,
    of_equal_claims_the_later_link_writes,
    only_its_holder_removes_an_edge,
    a_record_from_the_future_counts_as_none,
    a_lease_ends_unless_it_is_renewed,
    a_gateway_that_starts_again_takes_over_from_its_earlier_life,
    who_is_superseded_stays_away_while_its_successor_lives,
    who_was_forgotten_stays_away_while_another_lives_at_its_place,
    a_lease_that_is_over_comes_back_by_a_renewal_unless_superseded,
    gateways_with_one_name_and_other_addresses_live_beside_each_other,
    who_is_not_known_is_told_so,
    services_of_several_gateways_stand_beside_each_other,
    many_edges_are_written_at_once_and_found_by_bucket,
    a_bucket_said_anew_is_all_its_gateway_has_there,
    a_bucket_of_services_said_anew_is_all_its_gateway_has_there,
    word_for_a_gateway_is_taken_once,
];
