//! Patterns of output files.

use std::collections::BTreeSet;
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};
use p2p_proto::limits::FILES;
use p2p_proto::task::{Failure, FailureKind};
use walkdir::WalkDir;

use super::notes::Notes;
use super::too_many;
use crate::failure::shown;

/// A pattern.
pub(super) struct Glob {
    pattern: String,
    matcher: GlobMatcher,
    /// Whether it sees names that begin with a dot.
    hidden: bool,
    matched: bool,
}

impl Glob {
    /// # Errors
    /// When it cannot be understood.
    pub(super) fn new(pattern: &str) -> Result<Self, Failure> {
        // Braces are not part of the patterns' language.
        let mut in_class = false;
        let plain = pattern.chars().map(|c| {
            in_class = c == '[' || in_class && c != ']';
            if !in_class && matches!(c, '{' | '}') { format!("[{c}]") } else { c.to_string() }
        });
        let built =
            GlobBuilder::new(&plain.collect::<String>()).literal_separator(true).backslash_escape(false).build();
        let glob = built.map_err(|error| {
            let message =
                format!("the output pattern {} cannot be understood: {}", shown(pattern.as_bytes()), error.kind());
            Failure::new(FailureKind::BadName, message)
        })?;
        let hidden = pattern.split('/').any(|part| part.starts_with('.'));
        Ok(Self { pattern: pattern.to_owned(), matcher: glob.compile_matcher(), hidden, matched: false })
    }

    /// As the task has it.
    pub(super) fn text(&self) -> &str {
        &self.pattern
    }

    /// Whether [`matching`] found any file for it.
    pub(super) fn matched(&self) -> bool {
        self.matched
    }

    fn is_match(&self, path: &Path) -> bool {
        let shows = || !path.iter().any(|part| part.as_encoded_bytes().starts_with(b"."));
        self.matcher.is_match(path) && (self.hidden || shows())
    }
}

/// The names below `folder` that match, sorted; files that cannot be read are left to the caller.
///
/// # Errors
/// Far too many.
pub(super) fn matching(folder: &Path, globs: &mut [Glob], notes: &mut Notes) -> Result<BTreeSet<String>, Failure> {
    if globs.is_empty() {
        return Ok(BTreeSet::new());
    }
    let hidden = globs.iter().any(|glob| glob.hidden);
    let walk = WalkDir::new(folder).follow_links(false).min_depth(1).into_iter();
    let seen = walk
        .filter_entry(|entry| hidden || entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b"."));
    let mut names = BTreeSet::new();
    // What cannot be read is not the client's to have.
    for entry in seen.flatten().filter(|entry| !entry.file_type().is_dir()) {
        let Ok(path) = entry.path().strip_prefix(folder) else { continue };
        let mut matched = false;
        for glob in globs.iter_mut().filter(|glob| glob.is_match(path)) {
            glob.matched = true;
            matched = true;
        }
        match path.to_str() {
            Some(name) if matched => names.insert(name.to_owned()),
            None if matched => {
                let name = shown(path.as_os_str().as_encoded_bytes());
                notes.add(format!("left out: the file name {name} is not UTF-8; rename it"));
                continue;
            }
            _ => continue,
        };
        // Unchanged inputs among them do not count; what comes back is counted later.
        if names.len() > 2 * FILES {
            return Err(too_many());
        }
    }
    Ok(names)
}
