//! Where values come from: words after `:::`, files after `::::` or `-a`, stdin.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use crate::trouble::{Code, Trouble};

/// What is kept of one value, bytes: far more than a command line can hold, so that what is longer fails for that reason.
const VALUE_BYTES: usize = 256 * 1024;
/// What is read at a time, bytes.
const READ_BYTES: usize = 64 * 1024;
/// The values of all sources but the first, bytes together: they are kept, to be combined with each value of the first.
const KEPT_BYTES: usize = 256 * 1024 * 1024;

/// One source of values.
#[derive(Debug)]
pub enum Source {
    /// Words of the command line.
    Words(Vec<Vec<u8>>),
    /// A file of values.
    File(PathBuf),
    /// Our stdin.
    Stdin,
}

/// Splits what stands on the command line into the command and its sources; `files` (`-a`) are sources before those.
///
/// # Errors
/// What GNU parallel understands and this program does not.
pub fn split(words: Vec<OsString>, files: Vec<PathBuf>) -> Result<(Vec<OsString>, Vec<Source>), Trouble> {
    let file = |path: PathBuf| if path.as_os_str() == "-" { Source::Stdin } else { Source::File(path) };
    let mut sources: Vec<Source> = files.into_iter().map(file).collect();
    let mut command = Vec::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next_if(|word| !is_separator(word)) {
        command.push(word);
    }
    while let Some(separator) = words.next() {
        let mut values = Vec::new();
        while let Some(word) = words.next_if(|word| !is_separator(word)) {
            values.push(word);
        }
        match separator.to_str() {
            Some(":::") => sources.push(Source::Words(values.into_iter().map(OsString::into_vec).collect())),
            Some("::::") if values.is_empty() => return Err(usage("name a file after ::::, or - for stdin")),
            Some("::::") => sources.extend(values.into_iter().map(|name| file(name.into()))),
            _ => {
                let words = "sources that are linked by :::+ or ::::+ are not known here: put their values into one source, \
                     or use ::: and :::: for all combinations";
                return Err(usage(words));
            }
        }
    }
    if sources.is_empty() {
        sources.push(Source::Stdin);
    }
    if sources.iter().filter(|source| matches!(source, Source::Stdin)).count() > 1 {
        return Err(usage("stdin can be only one of the sources"));
    }
    Ok((command, sources))
}

fn is_separator(word: &OsString) -> bool {
    word == ":::" || word == "::::" || word == ":::+" || word == "::::+"
}

fn usage(words: &str) -> Trouble {
    Trouble::new(Code::Usage, words)
}

/// All combinations of the values of several sources; those of the last one change fastest. The first source is read as it comes, the
/// others are kept in memory. As in GNU parallel, a source without values stands for one empty value, unless all are without.
pub struct Rows {
    first: Values,
    /// The value of the first source that is being combined.
    current: Option<Vec<u8>>,
    others: Vec<Vec<Vec<u8>>>,
    /// The next value of each of the others.
    next: Vec<usize>,
}

impl Rows {
    /// Opens all sources, and reads all but the first one.
    ///
    /// # Errors
    /// A source that cannot be read.
    pub fn open(sources: Vec<Source>, separator: u8) -> Result<Self, Trouble> {
        let mut opened = sources.into_iter().map(|source| Values::open(source, separator));
        let first = opened.next().unwrap_or_else(|| Ok(Values::Words(Vec::new().into_iter())))?;
        let mut others = Vec::new();
        let mut kept = 0;
        for values in opened {
            let mut values = values?;
            let mut all = Vec::new();
            while let Some(value) = values.next()? {
                kept += value.len() + size_of::<Vec<u8>>();
                if kept > KEPT_BYTES {
                    let words =
                        "the second and later sources are too large to keep in memory: make the largest one the first";
                    return Err(Trouble::new(Code::Input, words));
                }
                all.push(value);
            }
            others.push(all);
        }
        let mut rows = Self { first, current: None, next: vec![0; others.len()], others };
        if !rows.others.is_empty() {
            let any = rows.others.iter().any(|values| !values.is_empty());
            rows.current = rows.first.next()?.or(any.then(Vec::new));
        }
        rows.others.iter_mut().filter(|values| values.is_empty()).for_each(|values| values.push(Vec::new()));
        Ok(rows)
    }

    /// How many sources there are.
    pub fn columns(&self) -> usize {
        1 + self.others.len()
    }

    /// How many rows are still to come, as far as that is known before they are read.
    pub fn known(&self) -> Option<u64> {
        let Values::Words(words) = &self.first else { return None };
        let first = words.len() as u64 + u64::from(self.current.is_some());
        self.others.iter().try_fold(first, |count, values| count.checked_mul(values.len() as u64))
    }

    /// Whether the next row is there without waiting for anybody.
    pub fn is_ready(&self) -> bool {
        self.current.is_some() || self.first.is_ready()
    }

    /// The next row.
    ///
    /// # Errors
    /// When the first source cannot be read any more.
    pub fn next(&mut self) -> Result<Option<Vec<Vec<u8>>>, Trouble> {
        if self.current.is_none() {
            self.current = self.first.next()?;
        }
        let Some(first) = &self.current else { return Ok(None) };
        let mut row = Vec::with_capacity(self.columns());
        row.push(first.clone());
        row.extend(self.others.iter().zip(&self.next).map(|(values, index)| values[*index].clone()));
        for (values, index) in self.others.iter().zip(&mut self.next).rev() {
            *index += 1;
            if *index < values.len() {
                return Ok(Some(row));
            }
            *index = 0;
        }
        self.current = None;
        Ok(Some(row))
    }
}

/// The values of one source.
enum Values {
    Words(std::vec::IntoIter<Vec<u8>>),
    Records(Records),
}

impl Values {
    fn open(source: Source, separator: u8) -> Result<Self, Trouble> {
        let (name, from): (_, Box<dyn Read + Send>) = match source {
            Source::Words(words) => return Ok(Self::Words(words.into_iter())),
            Source::Stdin => ("stdin".to_owned(), Box::new(io::stdin())),
            Source::File(path) => match File::open(&path) {
                Ok(file) => (path.display().to_string(), Box::new(file)),
                Err(fault) => return Err(unreadable(&path.display().to_string(), &fault)),
            },
        };
        Ok(Self::Records(Records { name, from, separator, buffer: Vec::new(), taken: 0, over: false }))
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, Trouble> {
        match self {
            Self::Words(words) => Ok(words.next()),
            Self::Records(records) => records.next().map_err(|fault| unreadable(&records.name, &fault)),
        }
    }

    fn is_ready(&self) -> bool {
        match self {
            Self::Words(_) => true,
            Self::Records(records) => records.over || records.buffer[records.taken..].contains(&records.separator),
        }
    }
}

fn unreadable(name: &str, fault: &io::Error) -> Trouble {
    Trouble::new(Code::Input, format!("the inputs cannot be read from {name}: {fault}; check its name and rights"))
}

/// Values that end with a separator; the last one may come without.
struct Records {
    name: String,
    from: Box<dyn Read + Send>,
    separator: u8,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are used up.
    taken: usize,
    over: bool,
}

impl Records {
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut value = Vec::new();
        let mut any = false;
        loop {
            let rest = &self.buffer[self.taken..];
            let end = rest.iter().position(|byte| *byte == self.separator);
            let part = &rest[..end.unwrap_or(rest.len())];
            any |= !part.is_empty();
            value.extend_from_slice(&part[..part.len().min(VALUE_BYTES.saturating_sub(value.len()))]);
            if let Some(end) = end {
                self.taken += end + 1;
                return Ok(Some(value));
            }
            self.taken = self.buffer.len();
            if self.over || !self.fill()? {
                return Ok(any.then_some(value));
            }
        }
    }

    /// Whether there is more.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.resize(READ_BYTES, 0);
        self.taken = 0;
        let count = loop {
            match self.from.read(&mut self.buffer) {
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(*count.as_ref().unwrap_or(&0));
        self.over = self.buffer.is_empty();
        count.map(|count| count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn rows(words: &[&str]) -> Vec<String> {
        let (_, sources) = split(os(words), Vec::new()).unwrap();
        let mut rows = Rows::open(sources, b'\n').unwrap();
        let known = rows.known().unwrap();
        let mut all = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            all.push(String::from_utf8(row.join(&b' ')).unwrap());
        }
        assert_eq!(all.len() as u64, known);
        all
    }

    #[test]
    fn sources_are_combined_and_the_last_changes_fastest() {
        assert_eq!(rows(&["x", ":::", "a", "b"]), ["a", "b"]);
        assert_eq!(rows(&[":::", "a", "b", ":::", "1", "2"]), ["a 1", "a 2", "b 1", "b 2"]);
        assert_eq!(rows(&[":::", "a", "b", ":::"]), ["a ", "b "]);
        assert_eq!(rows(&[":::", ":::", "a", "b"]), [" a", " b"]);
        assert_eq!(rows(&[":::", ":::"]), Vec::<String>::new());
        assert_eq!(rows(&["x", ":::"]), Vec::<String>::new());
    }

    #[test]
    fn the_command_ends_where_the_sources_begin() {
        let (command, sources) = split(os(&["echo", "-n", ":::", "a", "::::", "f", "-"]), vec!["g".into()]).unwrap();
        assert_eq!(command, os(&["echo", "-n"]));
        let shown = format!("{sources:?}");
        assert_eq!(shown, "[File(\"g\"), Words([[97]]), File(\"f\"), Stdin]");
        assert!(matches!(split(os(&["cat"]), Vec::new()).unwrap().1[..], [Source::Stdin]));
        for bad in [&["x", ":::+", "a"][..], &["x", "::::"], &["x", "::::", "-", "-"]] {
            assert_eq!(split(os(bad), Vec::new()).unwrap_err().code(), Code::Usage, "{bad:?}");
        }
    }

    #[test]
    fn records_end_with_a_separator_or_with_the_source() {
        // One byte at a time, as from a slow pipe.
        struct Slow(Vec<u8>);
        impl Read for Slow {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                if self.0.is_empty() {
                    return Ok(0);
                }
                into[0] = self.0.remove(0);
                Ok(1)
            }
        }
        let all = |text: &[u8], separator| {
            let from = Box::new(Slow(text.to_vec()));
            let mut records =
                Records { name: String::new(), from, separator, buffer: Vec::new(), taken: 0, over: false };
            let mut all = Vec::new();
            while let Some(value) = records.next().unwrap() {
                all.push(value);
            }
            all
        };
        assert_eq!(all(b"a\n\nb", b'\n'), [&b"a"[..], b"", b"b"]);
        assert_eq!(all(b"a\r\n", b'\n'), [b"a\r"]);
        assert_eq!(all(b"", b'\n'), Vec::<Vec<u8>>::new());
        assert_eq!(all(b"\n", b'\n'), [b""]);
        assert_eq!(all(b"a\nb\0c\0", 0), [&b"a\nb"[..], b"c"]);
    }

    #[test]
    fn an_endless_value_takes_no_memory() {
        let from = Box::new(io::repeat(b'x').take(10 * 1024 * 1024).chain(&b"\nnext\n"[..]));
        let mut records =
            Records { name: String::new(), from, separator: b'\n', buffer: Vec::new(), taken: 0, over: false };
        assert_eq!(records.next().unwrap().map(|value| value.len()), Some(VALUE_BYTES));
        assert_eq!(records.next().unwrap(), Some(b"next".to_vec()));
    }
}
