//! Query strings: each parameter under its proto name or the camelCase form of it, and at most once unless it is a list.

use frontier_api::error::ApiError;

/// The parameters of one request, decoded.
#[derive(Debug)]
pub struct Query(Vec<(String, String)>);

// === impl Query ===

impl Query {
    /// Decodes what stands behind the `?`.
    ///
    /// # Errors
    /// It is not percent-encoded UTF-8.
    pub fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        decoded.collect::<Result<_, _>>().map(Self)
    }

    /// The text of a parameter, `None` where it is not given.
    ///
    /// # Errors
    /// It is given twice.
    pub fn text(&self, name: &str) -> Result<Option<String>, ApiError> {
        let mut values = self.0.iter().filter(|(given, _)| given == name || *given == camel_case(name));
        let first = values.next().map(|(_, value)| value.clone());
        if values.next().is_some() {
            return Err(ApiError::invalid(format!("too many values for field {name:?}")));
        }
        Ok(first)
    }

    /// The number of a parameter.
    ///
    /// # Errors
    /// It is given twice or is none.
    pub fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, ApiError> {
        // An empty value counts as not given, as forms send it.
        let Some(text) = self.text(name)?.filter(|text| !text.is_empty()) else { return Ok(None) };
        number(name, &text).map(Some)
    }

    /// The texts of a parameter that may be repeated.
    #[must_use]
    pub fn texts(&self, name: &str) -> Vec<String> {
        let values = self.0.iter().filter(|(given, _)| given == name || *given == camel_case(name));
        values.map(|(_, value)| value.clone()).filter(|value| !value.is_empty()).collect()
    }

    /// The numbers of a parameter that may be repeated.
    ///
    /// # Errors
    /// One of them is none.
    pub fn numbers<N: std::str::FromStr>(&self, name: &str) -> Result<Vec<N>, ApiError> {
        self.texts(name).iter().map(|text| number(name, text)).collect()
    }
}

/// Reads a whole number.
///
/// # Errors
/// It is none, or too large.
pub fn number<N: std::str::FromStr>(name: &str, text: &str) -> Result<N, ApiError> {
    text.parse()
        .map_err(|_| ApiError::invalid(format!("parsing field {name:?}: {text:?} is not a whole number")))
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut text, word| {
        let (head, tail) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
        text.push_str(&head.to_ascii_uppercase());
        text.push_str(tail);
        text
    })
}

/// `%41` and `+` as forms write them.
fn decode(text: &str) -> Result<String, ApiError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (digits, tail) = rest.split_at_checked(2).ok_or_else(not_encoded)?;
                rest = tail;
                hex(digits).ok_or_else(not_encoded)?
            }
            plain => *plain,
        });
    }
    String::from_utf8(bytes).map_err(|_| not_encoded())
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let value = digit(digits.first()?)? * 16 + digit(digits.get(1)?)?;
    u8::try_from(value).ok()
}

fn not_encoded() -> ApiError {
    ApiError::invalid("the query is not percent-encoded UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_two_forms() {
        let query = Query::parse(Some("page_size=5&startTime=7&meta=a%20b+c%C3%A9&empty=&bare")).unwrap();
        assert_eq!(query.number("page_size").unwrap(), Some(5_i64));
        assert_eq!(query.number("start_time").unwrap(), Some(7_i64));
        assert_eq!(query.text("meta").unwrap().as_deref(), Some("a b cé"));
        assert_eq!(query.text("empty").unwrap().as_deref(), Some(""));
        assert_eq!(query.text("bare").unwrap().as_deref(), Some(""));
        assert_eq!(query.text("order").unwrap(), None);
        assert_eq!(query.number::<i64>("empty").unwrap(), None);
        assert_eq!(camel_case("a_bc_d"), "aBcD");
        assert_eq!(camel_case("meta"), "meta");
    }

    #[test]
    fn a_parameter_twice_is_an_error() {
        for query in ["page=1&page=2", "page_size=1&pageSize=1"] {
            let query = Query::parse(Some(query)).unwrap();
            let found = query.number::<i64>("page").and_then(|_| query.number::<i64>("page_size"));
            assert!(found.unwrap_err().message.starts_with("too many values"));
        }
    }

    #[test]
    fn lists_are_repeated_parameters() {
        let query = Query::parse(Some("edge_ids=1&edgeIds=2&edge_ids=&names=a&names=b%20c")).unwrap();
        assert_eq!(query.numbers::<u64>("edge_ids").unwrap(), [1, 2]);
        assert_eq!(query.texts("names"), ["a", "b c"]);
        assert!(query.texts("none").is_empty() && query.numbers::<u64>("names").is_err());
    }

    #[test]
    fn garbage_is_an_error() {
        for query in ["a=%", "a=%4", "a=%zz", "a=%ff", "%ff=a"] {
            assert!(Query::parse(Some(query)).is_err(), "{query}");
        }
        let query = Query::parse(Some("page=x&edge_id=-1&big=99999999999999999999")).unwrap();
        assert_eq!(
            query.number::<i64>("page").unwrap_err().message,
            "parsing field \"page\": \"x\" is not a whole number"
        );
        assert!(query.number::<u64>("edge_id").is_err() && query.number::<i64>("big").is_err());
    }
}
