//! Who is admitted, and which ID it gets.
//!
//! ```text
//!  token ─────────┐
//!  certificate ───┼─▶ Authority::admit ─▶ an ID it is entitled to, or 0: the ID service or the allocator decides
//!  resume ticket ─┤         │
//!  wished ID ─────┘         └─▶ refused: unauthenticated, permission_denied
//! ```
//!
//! - [`authority`]: the decision.
//! - [`grants`]: what tokens and certificate subjects are entitled to.
//! - [`ticket`]: resume tickets, which grant an edge the ID it had.
//! - [`random`]: numbers for new IDs.
//! - [`subject`]: the names in a certificate.
//!
//! Nothing here reads a clock or a file; both come in as values.

pub mod authority;
pub mod grants;
pub mod random;
pub mod subject;
pub mod ticket;

pub use self::{
    authority::{Authority, Objection},
    grants::{Entry, GrantError, Grants, IdSet, SubjectPattern, TokenHash},
    random::{Random, SeededRandom},
    subject::subject_of,
    ticket::{Ticket, TicketError, TicketKey},
};
