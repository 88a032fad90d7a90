//! Replacement strings, exactly as GNU parallel has them.
//!
//! | string | stands for | `dir/a.tar.gz` |
//! |---|---|---|
//! | `{}` | the value | `dir/a.tar.gz` |
//! | `{.}` | without its extension | `dir/a.tar` |
//! | `{/}` | its last part | `a.tar.gz` |
//! | `{//}` | its folder | `dir` |
//! | `{/.}` | its last part without extension | `a.tar` |
//! | `{#}` | the task's number, from 1 | `1` |
//! | `{2}` `{-1}` `{2.}` `{2/}` `{2//}` `{2/.}` | the same of one source, counted from the first or the last | |
//!
//! With several sources the strings without a number stand for the values of all, with blanks between them. A source that is not there is
//! nothing at all. Everything else in braces is text.

/// The values of one task, one of each source, and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// From 1.
    pub number: u64,
    /// As bytes, as the operating system has them.
    pub values: Vec<Vec<u8>>,
}

/// Text with replacement strings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Number,
    Value(Which, Part),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    All,
    /// From 1, or from -1 backwards.
    At(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    NoExtension,
    Base,
    Folder,
    BaseNoExtension,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What GNU parallel would replace and this program does not, so that nobody's command silently means something else.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut plain = Vec::new();
        let mut rest = text;
        while let Some((&byte, after)) = rest.split_first() {
            let inside = (byte == b'{').then(|| after.iter().position(|byte| *byte == b'}')).flatten();
            let inside = inside.map(|end| &after[..end]);
            match inside.and_then(piece) {
                Some(piece) => {
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    }
                    pieces.push(piece);
                    rest = &after[inside.map_or(0, <[u8]>::len) + 1..];
                }
                None => {
                    refuse(byte, inside, after)?;
                    plain.push(byte);
                    rest = after;
                }
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self { pieces })
    }

    /// Whether there is any replacement string.
    pub fn replaces(&self) -> bool {
        self.pieces.iter().any(|piece| !matches!(piece, Piece::Text(_)))
    }

    /// Appends a blank and `{}`.
    pub fn append_value(&mut self) {
        self.pieces.push(Piece::Text(b" ".to_vec()));
        self.pieces.push(Piece::Value(Which::All, Part::Whole));
    }

    /// Whether the value of source `index`, of `count` sources, is in it.
    pub fn mentions(&self, index: usize, count: usize) -> bool {
        self.pieces.iter().any(|piece| match piece {
            Piece::Value(Which::All, _) => true,
            Piece::Value(Which::At(at), _) => place(*at, count) == Some(index),
            Piece::Text(_) | Piece::Number => false,
        })
    }

    /// Whether its own text, not a value, has one of these characters.
    pub fn text_has(&self, characters: &[u8]) -> bool {
        self.pieces
            .iter()
            .any(|piece| matches!(piece, Piece::Text(text) if text.iter().any(|byte| characters.contains(byte))))
    }

    /// The text for one row; `insert` writes a value in the way that the text needs it.
    pub fn expand(&self, row: &Row, insert: impl Fn(&[u8], &mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Number => out.extend_from_slice(row.number.to_string().as_bytes()),
                Piece::Value(Which::All, part) => {
                    for (index, value) in row.values.iter().enumerate() {
                        if index > 0 {
                            out.push(b' ');
                        }
                        insert(part.of(value), &mut out);
                    }
                }
                Piece::Value(Which::At(at), part) => {
                    if let Some(value) = place(*at, row.values.len()).and_then(|index| row.values.get(index)) {
                        insert(part.of(value), &mut out);
                    }
                }
            }
        }
        out
    }
}

/// What stands between two braces.
fn piece(inside: &[u8]) -> Option<Piece> {
    if inside == b"#" {
        return Some(Piece::Number);
    }
    let sign = usize::from(inside.first() == Some(&b'-'));
    let digits = inside[sign..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    if sign == 1 && digits == 0 {
        return None;
    }
    let (number, part) = inside.split_at(sign + digits);
    let part = match part {
        b"" => Part::Whole,
        b"." => Part::NoExtension,
        b"/" => Part::Base,
        b"//" => Part::Folder,
        b"/." => Part::BaseNoExtension,
        _ => return None,
    };
    // A number that is too large for a machine is a source that is not there.
    let at = std::str::from_utf8(number).ok().map(|number| number.parse().unwrap_or(i64::MAX));
    let which = match at {
        _ if number.is_empty() => Which::All,
        Some(0) | None => Which::All,
        Some(at) => Which::At(at),
    };
    Some(Piece::Value(which, part))
}

fn refuse(byte: u8, inside: Option<&[u8]>, after: &[u8]) -> Result<(), String> {
    if byte != b'{' {
        return Ok(());
    }
    if inside == Some(b"%") {
        return Err("{%} is not known here, for slots belong to workers; {#} is the task's number".to_owned());
    }
    if after.first() == Some(&b'=') && after.windows(2).any(|pair| pair == b"=}") {
        return Err("{= =} is not known here: no Perl runs in this program".to_owned());
    }
    Ok(())
}

fn place(at: i64, count: usize) -> Option<usize> {
    let count = i64::try_from(count).ok()?;
    // Parallel goes round once more: {-2} of one source is that one.
    let index = if at < -count {
        at.checked_add(2 * count)?
    } else if at < 0 {
        count + at
    } else {
        at - 1
    };
    usize::try_from(index).ok().filter(|_| index < count)
}

impl Part {
    fn of(self, value: &[u8]) -> &[u8] {
        match self {
            Self::Whole => value,
            Self::NoExtension => without_extension(value),
            Self::Base => base(value),
            Self::Folder => folder(value),
            Self::BaseNoExtension => without_extension(base(value)),
        }
    }
}

fn without_extension(value: &[u8]) -> &[u8] {
    match value.iter().rposition(|byte| matches!(byte, b'.' | b'/')) {
        Some(at) if value[at] == b'.' => &value[..at],
        _ => value,
    }
}

fn base(value: &[u8]) -> &[u8] {
    value.iter().rposition(|byte| *byte == b'/').map_or(value, |at| &value[at + 1..])
}

/// As Perl's `File::Basename::dirname`, which parallel uses: `a/` is in `.`, and `/` in itself.
fn folder(value: &[u8]) -> &[u8] {
    fn above(value: &[u8]) -> &[u8] {
        let folder = &value[..value.len() - base(value).len()];
        if folder.is_empty() { b"." } else { trimmed(folder) }
    }
    let folder = above(value);
    if base(value).is_empty() && value.contains(&b'/') { above(folder) } else { folder }
}

/// Without slashes at the end, but never empty.
fn trimmed(folder: &[u8]) -> &[u8] {
    let end = folder.iter().rposition(|byte| *byte != b'/').map_or(1, |at| at + 1);
    &folder[..end.min(folder.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(template: &str, values: &[&str]) -> String {
        let row = Row { number: 7, values: values.iter().map(|value| value.as_bytes().to_vec()).collect() };
        let plain = |value: &[u8], out: &mut Vec<u8>| out.extend_from_slice(value);
        String::from_utf8(Template::parse(template.as_bytes()).unwrap().expand(&row, plain)).unwrap()
    }

    #[test]
    fn each_string_is_replaced_as_parallel_does() {
        // Value, {//}, {/}, {.}, {/.}: what GNU parallel 20221122 prints.
        let table = [
            ("dir/a.tar.gz", "dir", "a.tar.gz", "dir/a.tar", "a.tar"),
            ("a/b.c", "a", "b.c", "a/b", "b"),
            ("/a", "/", "a", "/a", "a"),
            ("/a/b/", "/a", "", "/a/b/", ""),
            ("a/", ".", "", "a/", ""),
            (".", ".", ".", "", ""),
            ("..", ".", "..", ".", "."),
            (".bash", ".", ".bash", "", ""),
            ("a.b/c", "a.b", "c", "a.b/c", "c"),
            ("", ".", "", "", ""),
            ("//a", "/", "a", "//a", "a"),
            ("a//b.c", "a", "b.c", "a//b", "b"),
            ("///", "/", "", "///", ""),
            ("/", "/", "", "/", ""),
            ("a///", ".", "", "a///", ""),
            ("./a", ".", "a", "./a", "a"),
        ];
        for (value, folder, base, stem, base_stem) in table {
            let got = expand("{}|{//}|{/}|{.}|{/.}|{#}", &[value]);
            assert_eq!(got, format!("{value}|{folder}|{base}|{stem}|{base_stem}|7"), "of {value:?}");
        }
    }

    #[test]
    fn several_sources_are_numbered_from_both_ends() {
        let values = ["a.x", "d/b.y"];
        assert_eq!(expand("{} {.}", &values), "a.x d/b.y a d/b");
        assert_eq!(expand("{2} {1.} {-1/.} {-2} {2//} {01}", &values), "d/b.y a b a.x d a.x");
        assert_eq!(expand("<{3}{-5}{99999999999999999999}> {0}", &values), "<> a.x d/b.y");
        assert_eq!(expand("{-4} {-3}", &values), "a.x d/b.y");
    }

    #[test]
    fn other_braces_are_text_and_values_are_not_replaced_again() {
        assert_eq!(expand("awk '{print $1}' {x} {..} {+1} {-} { {}", &["v"]), "awk '{print $1}' {x} {..} {+1} {-} { v");
        assert_eq!(expand("{}{1}", &["{#}"]), "{#}{#}");
        assert!(!Template::parse(b"{x} }{ {").unwrap().replaces());
        assert!(Template::parse(b"x{#}").unwrap().replaces());
    }

    #[test]
    fn what_parallel_would_replace_is_refused() {
        assert!(Template::parse(b"x {%}").is_err());
        assert!(Template::parse(b"{= s/a/b/ =}").is_err());
        assert!(Template::parse(b"awk {=x}").is_ok());
    }

    #[test]
    fn it_is_known_which_sources_are_mentioned() {
        let template = Template::parse(b"{-1/}{#}").unwrap();
        assert!(template.mentions(1, 2) && !template.mentions(0, 2));
        assert!(Template::parse(b"{.}").unwrap().mentions(0, 2));
    }
}
