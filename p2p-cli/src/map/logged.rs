//! `--resume`: what a log of earlier runs has, and which tasks are not run again because of it.
//!
//! A number in the log stands for a command. If the command of that number is another one now, then inputs or command have changed, and the
//! log says nothing about them: [`Logged::skips`] fails, and nothing is run. GNU parallel would skip the new command as if it had been
//! done.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::halt::Before;
use super::joblog::{COMMAND_BYTES, HEADER, command};
use crate::say;
use crate::trouble::{Code, Trouble};

/// A line, bytes: a command and the columns before it.
const LINE_BYTES: usize = COMMAND_BYTES + 1024;
/// Lines of one log.
const LINES: u64 = 10_000_000;
/// What is shown of a command, characters.
const SHOWN: usize = 100;

/// Which tasks are run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// `--resume`: those that the log does not have.
    Missing,
    /// `--resume-failed`: also those that failed.
    Failed,
}

/// What a log has.
#[derive(Debug)]
pub struct Logged {
    file: File,
    path: PathBuf,
    again: Again,
    tasks: HashMap<u64, Task>,
    last: u64,
    whole_bytes: u64,
}

#[derive(Debug)]
struct Task {
    good: bool,
    /// Where its command is in the file; it is read only when it is compared.
    from: u64,
    bytes: usize,
}

impl Logged {
    /// Opens a log only to read it; there may be none.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn open(path: &Path, again: Again) -> Result<Option<Self>, Trouble> {
        match File::open(path) {
            Ok(file) => Self::read(&file, path, again).map(Some),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(fault) => Err(input(path, &format!("cannot be read: {fault}; check its name and rights"))),
        }
    }

    /// Reads a log from its beginning. A last line without its newline is not taken: its writer was killed.
    ///
    /// # Errors
    /// A line that is none of a log, or is too long, or one too many.
    pub fn read(file: &File, path: &Path, again: Again) -> Result<Self, Trouble> {
        let unreadable = |fault: io::Error| input(path, &format!("cannot be read: {fault}; check its name and rights"));
        let kept = file.try_clone().map_err(unreadable)?;
        let mut logged =
            Self { file: kept, path: path.to_owned(), again, tasks: HashMap::new(), last: 0, whole_bytes: 0 };
        let mut from = BufReader::new(file);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let bytes = (&mut from).take(LINE_BYTES as u64 + 1).read_until(b'\n', &mut line).map_err(unreadable)?;
            if number == 1 && !HEADER.starts_with(&line) {
                return Err(input(path, "does not begin as a --joblog does (line 1): name another file"));
            }
            if bytes > LINE_BYTES {
                let words = format!("has a line {number} of more than {LINE_BYTES} bytes: remove that line");
                return Err(input(path, &words));
            }
            if line.pop() != Some(b'\n') {
                break;
            }
            if number > LINES {
                let words = format!("has more than {LINES} lines: start a new one, with the inputs that are left");
                return Err(input(path, &words));
            }
            if number > 1 {
                logged.take(&line).ok_or_else(|| {
                    let words =
                        format!("has a line {number} that is not as --joblog writes it: mend or remove that line");
                    input(path, &words)
                })?;
            }
            logged.whole_bytes += bytes as u64;
        }
        Ok(logged)
    }

    fn take(&mut self, line: &[u8]) -> Option<()> {
        let columns: Vec<&[u8]> = line.splitn(9, |byte| *byte == b'\t').collect();
        let text = |index: usize| std::str::from_utf8(columns.get(index)?).ok();
        let number = |index: usize| text(index)?.parse::<i64>().ok();
        let seq = u64::try_from(number(0)?).ok().filter(|seq| *seq > 0)?;
        text(1).filter(|host| !host.is_empty())?;
        for time in [2, 3] {
            text(time)?.trim_start().parse::<f64>().ok()?;
        }
        let (_sent, _received) = (number(4)?, number(5)?);
        let good = (number(6)?, number(7)?) == (0, 0);
        let bytes = columns.get(8)?.len();
        let from = self.whole_bytes + (line.len() - bytes) as u64;
        let task = self.tasks.entry(seq).or_insert(Task { good, from, bytes });
        *task = Task { good: task.good || good, from, bytes };
        self.last = self.last.max(seq);
        Some(())
    }

    /// The bytes of its whole lines.
    pub fn whole_bytes(&self) -> u64 {
        self.whole_bytes
    }

    /// The highest number that it has; 0 if it has none.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The tasks that are not run again.
    pub fn before(&self) -> Before {
        let good = self.tasks.values().filter(|task| task.good).count() as u64;
        let done = if self.again == Again::Failed { good } else { self.tasks.len() as u64 };
        Before { done, good }
    }

    /// Whether this task is not run again. `line` makes its command line.
    ///
    /// # Errors
    /// When the log has another command for this number.
    pub fn skips(&self, number: u64, line: impl FnOnce() -> Vec<u8>) -> Result<bool, Trouble> {
        let Some(task) = self.tasks.get(&number) else { return Ok(false) };
        let mut then = vec![0; task.bytes];
        self.file
            .read_exact_at(&mut then, task.from)
            .map_err(|fault| input(&self.path, &format!("cannot be read: {fault}; check its rights")))?;
        let now = command(&line());
        if then != now {
            let words = format!(
                "says that number {number} was `{}`, but now that is `{}`: use the same command and inputs, in the same order, or \
                 start a new --joblog. Nothing is run",
                shown(&then),
                shown(&now)
            );
            return Err(input(&self.path, &words));
        }
        Ok(task.good || self.again == Again::Missing)
    }

    /// All inputs were read, and there are so many.
    ///
    /// # Errors
    /// When the log has more.
    pub fn check_count(&self, count: u64) -> Result<(), Trouble> {
        if count >= self.last {
            return Ok(());
        }
        let words = format!(
            "has a number {}, but now there are only {count} inputs: use the same inputs, in the same order, or start a new --joblog",
            self.last
        );
        Err(input(&self.path, &words))
    }
}

fn input(path: &Path, words: &str) -> Trouble {
    Trouble::new(Code::Input, format!("the --joblog {} {words}", path.display()))
}

fn shown(command: &[u8]) -> String {
    let text = String::from_utf8_lossy(&command[..command.len().min(4 * SHOWN)]).replace('\0', "\\n");
    let short: String = text.chars().take(SHOWN).collect();
    let more = if short.len() < text.len() || command.len() > 4 * SHOWN { "..." } else { "" };
    say::harmless(&short) + more
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn read(text: &[u8], again: Again) -> Result<Logged, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text).unwrap();
        let opened = File::open(file.path()).unwrap();
        Logged::read(&opened, Path::new("log"), again).map_err(|trouble| trouble.to_string())
    }

    fn log(lines: &[&str]) -> Vec<u8> {
        let mut text = HEADER.to_vec();
        lines.iter().for_each(|line| text.extend_from_slice(line.as_bytes()));
        text
    }

    const THREE: [&str; 3] = [
        "2\tbob@pc:1\t1795487623.153\t     0.110\t0\t12\t0\t0\techo\t2\0\n",
        "3\t:\t1795487623.153\t     0.110\t0\t12\t4\t0\tfalse\n",
        "1\t:\t1795487623.153\t     0.110\t0\t12\t0\t9\tkill\n",
    ];

    #[test]
    fn what_is_run_again_is_what_the_options_say() {
        let commands = ["kill", "echo\t2\n", "false", "new"];
        let torn = "4\t:\t1795487623.153\t     0.110\t0\t12\t0\t0\tnew";
        let better = "3\tbob@pc:2\t1795487624.153\t     0.110\t0\t12\t0\t0\tfalse\n";
        let [one, two, three] = THREE;
        let table = [
            (vec![], Again::Missing, [false, false, false, false], (0, 0)),
            (vec![one, two, three], Again::Missing, [true, true, true, false], (3, 1)),
            (vec![one, two, three], Again::Failed, [false, true, false, false], (1, 1)),
            (vec![one, two, three, torn], Again::Missing, [true, true, true, false], (3, 1)),
            (vec![one, two, three, better], Again::Failed, [false, true, true, false], (2, 2)),
        ];
        for (lines, again, expected, (done, good)) in table {
            let logged = read(&log(&lines), again).unwrap();
            let skips: Vec<bool> = (1..)
                .zip(commands)
                .map(|(number, line)| logged.skips(number, || line.as_bytes().to_vec()).unwrap())
                .collect();
            assert_eq!(skips, expected, "{lines:?} {again:?}");
            assert_eq!(logged.before(), Before { done, good }, "{lines:?} {again:?}");
        }
    }

    #[test]
    fn a_changed_command_is_told() {
        let logged = read(&log(&THREE), Again::Missing).unwrap();
        let told = logged.skips(2, || b"echo 3".to_vec()).unwrap_err();
        assert_eq!(told.code(), Code::Input);
        assert!(told.to_string().contains("number 2 was `echo\t2\\n`, but now that is `echo 3`"), "{told}");
        assert!(logged.check_count(3).is_ok());
        assert!(logged.check_count(2).unwrap_err().to_string().contains("only 2 inputs"));
    }

    #[test]
    fn a_bad_line_is_told_with_its_number() {
        let long = format!("{}{}\n", THREE[2].trim_end(), "x".repeat(LINE_BYTES));
        let endless = "x".repeat(2 * LINE_BYTES);
        let table: [(&[u8], &str); 10] = [
            (b"hello\n", "line 1"),
            (b"hello", "line 1"),
            (&log(&[THREE[0], "\n"]), "line 3"),
            (&log(&["0\t:\t1.0\t1.0\t0\t0\t0\t0\tx\n"]), "line 2"),
            (&log(&["1\t\t1.0\t1.0\t0\t0\t0\t0\tx\n"]), "line 2"),
            (&log(&["1\t:\tx\t1.0\t0\t0\t0\t0\tx\n"]), "line 2"),
            (&log(&["1\t:\t1.0\t1.0\t0\t0\t0\tx\tx\n"]), "line 2"),
            (&log(&["1\t:\t1.0\t1.0\t0\t0\t0\t0\n"]), "line 2"),
            (&log(&[THREE[0], &long]), "line 3"),
            (endless.as_bytes(), "line 1"),
        ];
        for (text, words) in table {
            let told = read(text, Again::Missing).unwrap_err();
            assert!(told.contains(words), "{told}");
        }
        assert_eq!(read(b"", Again::Missing).unwrap().whole_bytes(), 0);
        assert_eq!(read(b"Seq\tHo", Again::Missing).unwrap().last(), 0);
    }
}
