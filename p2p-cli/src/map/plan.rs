//! From a row of values to a task: the command line, the files that go along, and those that come back.
//!
//! # Names
//! Files keep their names: `--in dir/a` is `dir/a` in the task's folder, and what the task writes to `dir/a.xz` comes back to `dir/a.xz`
//! here. A name that ends with `/` is a folder, with all that is in it. An absolute name cannot be in the task's folder: there it has no leading `/`, here it has, and a value that `--in` or `--out` uses
//! loses it in the command too. A name with a part `..` is refused, for nothing outside the task's folder is the task's: either start
//! from a folder above, or use absolute names.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use p2p_blobs::Folder;
use p2p_proto::task::{Command, Failure, FailureKind};
use p2p_scheduler::Task;
use serde_bytes::ByteBuf;

use super::shell;
use super::template::{Row, Template};
use crate::needs::Needs;
use crate::outputs::{Outputs, Wanted};

/// The longest argument that Linux gives to a program, bytes (`MAX_ARG_STRLEN` less the NUL).
const LINE_BYTES: usize = 131_071;
/// What a task costs while it waits, beside its command line and files, bytes; for the bound on what is submitted ahead.
const TASK_BYTES: u64 = 1024;
/// Files up to this size travel inside their task; larger ones are read when they are sent.
const INLINE_BYTES: u64 = 32 * 1024;
/// Folders that are remembered while tasks are made.
const FOLDERS: usize = 16;
/// Characters that make a pattern of `--out`.
const PATTERN: &[u8] = b"*?[";

/// What is done with each row.
#[derive(Debug)]
pub struct Plan {
    /// The command line.
    pub command: Template,
    /// There is no command: the values themselves are command lines.
    pub bare: bool,
    /// `--in`.
    pub inputs: Vec<Template>,
    /// `--out`.
    pub outputs: Vec<Template>,
    /// `--env`.
    pub env: Vec<(String, String)>,
    /// `--timeout`.
    pub timeout: Option<Duration>,
    /// `--cpus` and the like.
    pub needs: Needs,
    /// `--once`.
    pub once: bool,
    /// Folders of `--in`.
    pub folders: Folders,
}

/// Folders that were looked through, for the tasks that share them.
#[derive(Debug, Default)]
pub struct Folders(Mutex<HashMap<PathBuf, Arc<Folder>>>);

impl Folders {
    fn get(&self, path: &Path) -> Result<Arc<Folder>, Failure> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = known.get(path) {
            return Ok(Arc::clone(folder));
        }
        let folder = Arc::new(Folder::open(path)?);
        if known.len() >= FOLDERS {
            known.clear();
        }
        known.insert(path.to_owned(), Arc::clone(&folder));
        Ok(folder)
    }
}

/// A task that can be submitted.
#[derive(Debug)]
pub struct Ready {
    /// What to run.
    pub task: Task,
    /// What comes back.
    pub wanted: Vec<Wanted>,
    /// About what it takes in memory while it waits, bytes.
    pub bytes: u64,
    /// Its input files, bytes.
    pub sent: u64,
}

impl Plan {
    /// The command line for one row.
    pub fn line(&self, row: &Row) -> Vec<u8> {
        let verbatim = |value: &[u8], out: &mut Vec<u8>| out.extend_from_slice(value);
        if self.bare {
            return self.command.expand(row, verbatim);
        }
        let count = row.values.len();
        let mut files = self.inputs.iter().chain(&self.outputs).peekable();
        if files.peek().is_none() || !row.values.iter().any(|value| value.starts_with(b"/")) {
            return self.command.expand(row, shell::quote);
        }
        let mut row = row.clone();
        for (index, value) in row.values.iter_mut().enumerate() {
            if files.clone().any(|template| template.mentions(index, count)) {
                value.drain(..leading_slashes(value));
            }
        }
        self.command.expand(&row, shell::quote)
    }

    /// The task for one row.
    ///
    /// # Errors
    /// Why there can be none.
    pub fn task(&self, row: &Row) -> Result<Ready, Failure> {
        let line = self.line(row);
        check_line(&line)?;
        let mut bytes = TASK_BYTES + line.len() as u64 + row.values.iter().map(|value| value.len() as u64).sum::<u64>();
        let argv = shell::words(&line).unwrap_or_else(|| vec![b"/bin/sh".to_vec(), b"-c".to_vec(), line]);
        let command = Command { argv: argv.into_iter().map(ByteBuf::from).collect(), env: self.env.clone() };
        let mut task = self.needs.of(Task::command(&command))?;
        if let Some(limit) = self.timeout {
            task = task.timeout(limit);
        }
        if self.once {
            task = task.once();
        }
        let mut names: Vec<String> = Vec::with_capacity(self.inputs.len());
        let mut sent = 0;
        for template in &self.inputs {
            let path = expand_name(template, row, false)?;
            let name = sent_name(&path)?;
            if !names.contains(&name) {
                if path.ends_with('/') {
                    let folder = self.folders.get(Path::new(&path))?;
                    task = task.input_folder(&name, &folder)?;
                    bytes += folder.memory_bytes();
                    sent += folder.size();
                } else {
                    task = task.input(&name, Path::new(&path))?;
                    let size = std::fs::metadata(&path).map_or(0, |about| about.len());
                    bytes += size.min(INLINE_BYTES);
                    sent += size;
                }
                names.push(name);
            }
        }
        let mut wanted = Vec::with_capacity(self.outputs.len());
        for template in &self.outputs {
            let pattern = template.text_has(PATTERN);
            let path = expand_name(template, row, pattern)?;
            let name = sent_name(&path)?;
            let root = if path.starts_with('/') { PathBuf::from("/") } else { PathBuf::from(".") };
            if path.ends_with('/') {
                task = task.output(&format!("{name}/"))?;
                wanted.push(Wanted::folder(name, root));
                continue;
            }
            task = task.output(&name)?;
            wanted.push(if pattern { Wanted::pattern(name, root)? } else { Wanted::file(name, root) });
        }
        Ok(Ready { task, wanted, bytes, sent })
    }
}

impl Ready {
    /// Where what comes back is put.
    pub fn outputs(wanted: Vec<Wanted>) -> Outputs {
        Outputs::of(wanted, PathBuf::from("."))
    }
}

fn check_line(line: &[u8]) -> Result<(), Failure> {
    if line.contains(&0) {
        let words = "the command line has a NUL byte, which no command can have; if NULs separate the inputs, say -0";
        return Err(Failure::new(FailureKind::Other, words));
    }
    if line.len() > LINE_BYTES {
        let words = format!(
            "the command line is longer than the {LINE_BYTES} bytes that a system takes; put the value into a file and name that with --in"
        );
        return Err(Failure::new(FailureKind::TooLarge, words));
    }
    Ok(())
}

/// A file's name as it is here. In a pattern, values stand for themselves.
fn expand_name(template: &Template, row: &Row, pattern: bool) -> Result<String, Failure> {
    let insert = |value: &[u8], out: &mut Vec<u8>| {
        for byte in value {
            if pattern && PATTERN.contains(byte) {
                out.extend_from_slice(&[b'[', *byte, b']']);
            } else {
                out.push(*byte);
            }
        }
    };
    String::from_utf8(template.expand(row, insert)).map_err(|fault| {
        let shown = String::from_utf8_lossy(fault.as_bytes()).into_owned();
        Failure::new(FailureKind::BadName, format!("the file name {shown:?} is not UTF-8: rename it"))
    })
}

/// A file's name in the task's folder.
fn sent_name(path: &str) -> Result<String, Failure> {
    if path.split('/').any(|part| part == "..") {
        let message = format!(
            "the file name {path:?} climbs with a part \"..\"; start p2p map in a folder above the file, or use absolute names"
        );
        return Err(Failure::new(FailureKind::BadName, message));
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.is_empty() {
        return Err(Failure::new(FailureKind::BadName, format!("{path:?} names no file")));
    }
    Ok(parts.join("/"))
}

fn leading_slashes(value: &[u8]) -> usize {
    value.iter().take_while(|byte| **byte == b'/').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(command: &str, inputs: &[&str], outputs: &[&str]) -> Plan {
        let template = |text: &str| Template::parse(text.as_bytes()).unwrap();
        Plan {
            command: template(command),
            bare: false,
            inputs: inputs.iter().map(|text| template(text)).collect(),
            outputs: outputs.iter().map(|text| template(text)).collect(),
            env: Vec::new(),
            timeout: None,
            needs: Needs::default(),
            once: false,
            folders: Folders::default(),
        }
    }

    fn row(values: &[&str]) -> Row {
        Row { number: 1, values: values.iter().map(|value| value.as_bytes().to_vec()).collect() }
    }

    #[test]
    fn absolute_values_lose_their_slash_where_files_travel() {
        let line = |plan: &Plan, values: &[&str]| String::from_utf8(plan.line(&row(values))).unwrap();
        assert_eq!(line(&plan("ls {}", &[], &[]), &["/etc"]), "ls /etc");
        assert_eq!(line(&plan("xz {} -o {/}", &["{}"], &[]), &["//a/b c"]), "xz 'a/b c' -o 'b c'");
        assert_eq!(line(&plan("cp {1} {2}", &["{1}"], &[]), &["/a", "/b"]), "cp a /b");
        assert_eq!(line(&plan("cp {1} {2}", &[], &["{2}"]), &["/a", "/b"]), "cp /a b");
        assert_eq!(line(&plan("cat {}", &["{}"], &[]), &["./a"]), "cat ./a");
    }

    #[test]
    fn names_that_no_task_can_have_are_refused() {
        for (path, expected) in [("a//b/./c", "a/b/c"), ("/etc/x", "etc/x"), ("./a", "a"), ("..a/b..", "..a/b..")] {
            assert_eq!(sent_name(path).unwrap(), expected);
        }
        for path in ["../a", "a/../b", "/../a", "..", "", "/", "."] {
            assert_eq!(sent_name(path).unwrap_err().kind, FailureKind::BadName, "{path:?}");
        }
        let bad = [
            (plan("x {}", &["{}"], &[]), "../x", FailureKind::BadName),
            (plan("x {}", &[], &["{}"]), "../x", FailureKind::BadName),
            (plan("x {}", &["{}"], &[]), "/no such file", FailureKind::Other),
            (plan("x {}", &["{}"], &[]), "/", FailureKind::BadName),
            (plan("x {}", &["{}"], &[]), "/etc", FailureKind::Other),
            (plan("x {}", &[], &[]), "a\0b", FailureKind::Other),
        ];
        for (plan, value, kind) in bad {
            assert_eq!(plan.task(&row(&[value])).unwrap_err().kind, kind, "{value:?}");
        }
        let long = "x".repeat(LINE_BYTES);
        assert_eq!(plan("x {}", &[], &[]).task(&row(&[&long])).unwrap_err().kind, FailureKind::TooLarge);
    }

    #[test]
    fn values_in_patterns_stand_for_themselves() {
        let template = Template::parse(b"{}.*").unwrap();
        assert_eq!(expand_name(&template, &row(&["a[1]?"]), true).unwrap(), "a[[]1][?].*");
    }
}
