//! A YAML document as a tree that keeps lines and the text of scalars.
//!
//! The typed readers above decide what a scalar means: `password: 0123` is the text `0123` for one key and a number
//! for another, and `yes` is a boolean where one is wanted, as it was for the YAML 1.1 reader that existing files
//! were written for. Deserialising straight into structs would lose both, and would stop at the first problem.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle, StrInput};

/// Nesting deeper than this is refused; the deepest real key has seven levels.
const MAX_DEPTH: usize = 32;

/// Nodes a document may have after its aliases are expanded: a hundred times a file with every key.
const MAX_NODES: usize = 50_000;

/// A value and the line it stands on.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Line of the first character, from 1.
    pub line: u32,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar as written; `quoted` tells `"true"` from `true`.
    Scalar {
        /// As written.
        text: String,
        /// Whether it stood in quotes.
        quoted: bool,
    },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping and its line.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Its text.
    pub name: String,
    /// From 1.
    pub line: u32,
}

/// Why a document could not be read at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct YamlError {
    /// From 1.
    pub line: u32,
    /// What is wrong there.
    pub message: String,
}

/// Reads the one document of a text; an empty text is an empty document.
///
/// # Errors
/// The first thing wrong, with its line.
pub fn parse(text: &str) -> Result<Node, YamlError> {
    parse_up_to(text, MAX_NODES)
}

/// The same with up to `most` values, aliases expanded.
///
/// # Errors
/// The first thing wrong, with its line.
pub fn parse_up_to(text: &str, most: usize) -> Result<Node, YamlError> {
    // A byte order mark is not part of the document; editors on some systems still write one.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder =
        Builder { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0, most, line: 1 };
    let mut document = None;
    loop {
        match builder.next()? {
            Event::StreamEnd => break,
            Event::StreamStart | Event::DocumentEnd => {}
            Event::DocumentStart(..) if document.is_some() => {
                return Err(builder.error("more than one document in the file"));
            }
            Event::DocumentStart(..) => {}
            event => document = Some(builder.node(event, 0)?),
        }
    }
    Ok(document.unwrap_or(Node { line: 1, value: Value::Null }))
}

/// Builds nodes from parser events.
struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// Anchored nodes by the parser's number of the anchor.
    anchors: HashMap<usize, Node>,
    nodes: usize,
    most: usize,
    line: u32,
}

// === impl Builder ===

impl<'a> Builder<'a> {
    /// The next event that is not a comment.
    fn next(&mut self) -> Result<Event<'a>, YamlError> {
        loop {
            match self.parser.next_event() {
                None => return Ok(Event::StreamEnd),
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => {
                    self.line = line_of(&span.start);
                    return Ok(event);
                }
                Some(Err(error)) => {
                    return Err(YamlError {
                        line: line_of(error.marker()),
                        message: format!("not YAML: {}", error.info()),
                    });
                }
            }
        }
    }

    fn error(&self, message: &str) -> YamlError {
        YamlError { line: self.line, message: message.to_owned() }
    }

    fn node(&mut self, event: Event<'a>, depth: usize) -> Result<Node, YamlError> {
        if depth > MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        self.count(1)?;
        let line = self.line;
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, _) => (anchor, scalar(&text, style)),
            Event::SequenceStart(_, anchor, _) => (anchor, self.list(depth)?),
            Event::MappingStart(_, anchor, _) => (anchor, self.map(depth)?),
            Event::Alias(id) => (0, self.alias(id)?),
            _ => return Err(self.error("a value was expected here")),
        };
        let node = Node { line, value };
        // Anchors count from 1; 0 says there is none.
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(Value::List(items)),
                event => items.push(self.node(event, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut entries = Vec::new();
        let mut merged = Vec::new();
        loop {
            let key = match self.next()? {
                Event::MappingEnd => break,
                Event::Scalar(text, ..) => Key { name: text.into_owned(), line: self.line },
                _ => return Err(self.error("a key must be plain text")),
            };
            let event = self.next()?;
            let value = self.node(event, depth + 1)?;
            if key.name == "<<" { merged.push(value) } else { entries.push((key, value)) }
        }
        for node in merged {
            self.merge(&mut entries, node)?;
        }
        Ok(Value::Map(entries))
    }

    /// `<<: *defaults`: adds what the mapping does not say itself.
    fn merge(&mut self, entries: &mut Vec<(Key, Node)>, node: Node) -> Result<(), YamlError> {
        match node.value {
            Value::Map(more) => {
                for (key, value) in more {
                    if !entries.iter().any(|(known, _)| known.name == key.name) {
                        entries.push((key, value));
                    }
                }
                Ok(())
            }
            Value::List(nodes) => nodes.into_iter().try_for_each(|node| self.merge(entries, node)),
            Value::Null | Value::Scalar { .. } => {
                Err(YamlError { line: node.line, message: "only a mapping can be merged".to_owned() })
            }
        }
    }

    fn alias(&mut self, id: usize) -> Result<Value, YamlError> {
        let Some(node) = self.anchors.get(&id).cloned() else {
            // The anchor is still being built: the node would contain itself.
            return Err(self.error("an alias inside the value it names"));
        };
        // Counted before it is used, so that aliases of aliases cannot grow without bound.
        self.count(size(&node))?;
        Ok(node.value)
    }

    fn count(&mut self, nodes: usize) -> Result<(), YamlError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > self.most { Err(self.error("too many values")) } else { Ok(()) }
    }
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::Null | Value::Scalar { .. } => 1,
        Value::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|(_, value)| 1 + size(value)).sum::<usize>(),
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    match (style, text) {
        (ScalarStyle::Plain, "" | "~" | "null" | "Null" | "NULL") => Value::Null,
        (style, text) => Value::Scalar { text: text.to_owned(), quoted: style != ScalarStyle::Plain },
    }
}

fn line_of(marker: &Marker) -> u32 {
    u32::try_from(marker.line()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Scalar { text: text.to_owned(), quoted: false }
    }

    fn get<'a>(node: &'a Node, key: &str) -> &'a Node {
        let Value::Map(entries) = &node.value else { panic!("not a map: {node:?}") };
        &entries.iter().find(|(known, _)| known.name == key).unwrap_or_else(|| panic!("no {key}")).1
    }

    #[test]
    fn lines_and_scalar_texts_are_kept() {
        let node = parse("# a comment\na:\n  b: 0123\n  c: \"true\"\n  d: ~\nl:\n- x\n- y\n").unwrap();
        let a = get(&node, "a");
        assert_eq!((get(a, "b").line, &get(a, "b").value), (3, &text("0123")));
        assert_eq!(get(a, "c").value, Value::Scalar { text: "true".into(), quoted: true });
        assert_eq!(get(a, "d").value, Value::Null);
        let Value::List(items) = &get(&node, "l").value else { panic!() };
        assert_eq!(items.iter().map(|item| item.line).collect::<Vec<_>>(), [7, 8]);
    }

    #[test]
    fn empty_documents_are_null() {
        for empty in ["", "\n\n", "# only a comment\n", "---\n", "---\n...\n", "\u{feff}"] {
            assert_eq!(parse(empty).unwrap().value, Value::Null, "{empty:?}");
        }
    }

    #[test]
    fn aliases_and_merges_are_expanded() {
        let node = parse("base: &b {enable: false, addr: x}\nuse:\n  <<: *b\n  addr: y\nsame: *b\n").unwrap();
        assert_eq!(get(get(&node, "use"), "enable").value, text("false"));
        assert_eq!(get(get(&node, "use"), "addr").value, text("y"));
        assert_eq!(get(get(&node, "same"), "addr").value, text("x"));
    }

    #[test]
    fn growth_by_aliases_is_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let before = format!("*a{}", level - 1);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", [before.as_str(); 10].join(", ")));
        }
        assert_eq!(parse(&bomb).unwrap_err().message, "too many values");
    }

    #[test]
    fn deep_nesting_is_refused() {
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert_eq!(parse(&deep).unwrap_err().message, "nested too deeply");
        assert!(parse(&"[".repeat(200_000)).is_err());
        assert!(parse(&"- ".repeat(200_000)).is_err());
    }

    #[test]
    fn errors_carry_the_line() {
        assert_eq!(parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err().line, 3);
        assert_eq!(parse("a: 1\n---\nb: 2\n").unwrap_err().message, "more than one document in the file");
        assert_eq!(parse("a: 1\n? [x]\n: 2\n").unwrap_err().message, "a key must be plain text");
        assert_eq!(parse("a: &a [1, *a]\n").unwrap_err().line, 1);
    }
}
