//! Who may end other people's connections: everybody, or those who show `controlplane.kick_token`.

use std::{fmt, sync::Arc};

use aws_lc_rs::{constant_time, digest};
use frontier_api::error::ApiError;
use frontier_ops::config::{Secret, SecretSource};
use frontier_wire::error::ErrorCode;
use parking_lot::Mutex;
use tracing::{error, warn};

/// The rule for kicks.
#[derive(Clone, Debug, Default)]
pub struct KickRule {
    token: Option<Arc<Token>>,
}

/// The token, and where it is read.
#[derive(Debug)]
struct Token {
    source: SecretSource,
    /// As read last; `None` = never.
    last: Mutex<Option<Secret>>,
}

// === impl KickRule ===

impl KickRule {
    /// With a token, it has to be shown; without one, whoever reaches the port may kick.
    #[must_use]
    pub fn new(token: Option<SecretSource>) -> Self {
        let token = token.map(|source| {
            let last = Mutex::new(source.load().ok());
            Arc::new(Token { source, last })
        });
        Self { token }
    }

    /// Checks the value of a request's `authorization` header.
    ///
    /// A token in a file is read each time: kicks are rare, and a replaced token holds at once. While the file cannot be read, the
    /// last one that was stays in force, as with the other files of the gateway.
    ///
    /// # Errors
    /// It does not show the token.
    pub async fn check(&self, authorization: Option<&[u8]>) -> Result<(), ApiError> {
        let Some(token) = self.token.clone() else { return Ok(()) };
        let shown = bearer(authorization).ok_or_else(|| {
            ApiError::new(ErrorCode::Unauthenticated, "kicks need authorization: Bearer <token>")
        })?;
        let token = tokio::task::spawn_blocking(move || token.read()).await.map_err(broken)?;
        let token = token.ok_or_else(|| broken("it was never read"))?;
        if !token.expose().is_empty() && same(shown, token.expose().as_bytes()) {
            Ok(())
        } else {
            Err(ApiError::new(ErrorCode::PermissionDenied, "the token does not allow kicks"))
        }
    }
}

// === impl Token ===

impl Token {
    fn read(&self) -> Option<Secret> {
        match self.source.load() {
            Ok(token) => *self.last.lock() = Some(token),
            Err(error) => {
                warn!(%error, "controlplane.kick_token cannot be read, the last one stays in force");
            }
        }
        self.last.lock().clone()
    }
}

fn broken(error: impl fmt::Display) -> ApiError {
    error!(%error, "controlplane.kick_token cannot be read, kicks are refused");
    ApiError::new(ErrorCode::Internal, "the token to compare with cannot be read")
}

fn bearer(authorization: Option<&[u8]>) -> Option<&[u8]> {
    let (scheme, token) = authorization?.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Compares hashes, so that neither contents nor length can be learned from the time it takes.
fn same(a: &[u8], b: &[u8]) -> bool {
    let hash = |text| digest::digest(&digest::SHA256, text);
    constant_time::verify_slices_are_equal(hash(a).as_ref(), hash(b).as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn code(rule: &KickRule, authorization: Option<&str>) -> Option<ErrorCode> {
        rule.check(authorization.map(str::as_bytes)).await.err().map(|error| error.code)
    }

    #[tokio::test]
    async fn without_a_token_everybody_may() {
        assert_eq!(code(&KickRule::default(), None).await, None);
    }

    #[tokio::test]
    async fn the_token_must_be_shown() {
        let rule = KickRule::new(Some(SecretSource::parse("s3cret")));
        for right in ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret "] {
            assert_eq!(code(&rule, Some(right)).await, None, "{right}");
        }
        for missing in [None, Some(""), Some("s3cret"), Some("Basic s3cret")] {
            assert_eq!(code(&rule, missing).await, Some(ErrorCode::Unauthenticated), "{missing:?}");
        }
        for wrong in ["Bearer ", "Bearer s3cre", "Bearer s3cret2", "Bearer S3CRET"] {
            assert_eq!(code(&rule, Some(wrong)).await, Some(ErrorCode::PermissionDenied), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_replaced_file_holds_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "one\n").unwrap();
        let rule = KickRule::new(Some(SecretSource::File(path.clone())));
        assert_eq!(code(&rule, Some("Bearer one")).await, None);
        std::fs::write(&path, "two\n").unwrap();
        assert_eq!(code(&rule, Some("Bearer one")).await, Some(ErrorCode::PermissionDenied));
        assert_eq!(code(&rule, Some("Bearer two")).await, None);
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(
            code(&rule, Some("Bearer ")).await,
            Some(ErrorCode::PermissionDenied),
            "an empty file opens nothing"
        );
    }

    #[tokio::test]
    async fn a_file_that_has_gone_leaves_the_last_token_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "one\n").unwrap();
        let rule = KickRule::new(Some(SecretSource::File(path.clone())));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(code(&rule, Some("Bearer one")).await, None, "nobody had kicked before");
        assert_eq!(code(&rule, Some("Bearer two")).await, Some(ErrorCode::PermissionDenied));
        std::fs::write(&path, "two\n").unwrap();
        assert_eq!(code(&rule, Some("Bearer two")).await, None);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(code(&rule, Some("Bearer one")).await, Some(ErrorCode::PermissionDenied));
        assert_eq!(code(&rule, Some("Bearer two")).await, None);
        let never = KickRule::new(Some(SecretSource::File(path)));
        assert_eq!(code(&never, Some("Bearer two")).await, Some(ErrorCode::Internal));
    }
}
