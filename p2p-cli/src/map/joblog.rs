//! `--joblog`: a line for each task that ended, as GNU parallel writes it, so that its tools and habits go on to work.
//!
//! A line is written when all that its task printed was passed on and all its files are here: what a log has need not be done again. With
//! `--keep-order` that is when its turn to be printed came, as in GNU parallel. Each line is one write to the end of the file, so that
//! whoever is killed leaves at most its last line torn; [`Logged`] leaves that out, and it is cut off here.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::logged::{Again, Logged};
use crate::trouble::{Code, Trouble};

/// The first line.
pub const HEADER: &[u8] = b"Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n";
/// What a line tells of a command, bytes: more than any that can be run.
pub const COMMAND_BYTES: usize = 256 * 1024;
/// Where a task ran that ran nowhere: GNU parallel's name for this machine.
const NOWHERE: &str = ":";

/// One line.
#[derive(Debug)]
pub struct Line<'a> {
    /// The task's number.
    pub seq: u64,
    /// The worker's name.
    pub host: Option<String>,
    /// When it started, since 1970.
    pub started: Duration,
    /// How long it ran.
    pub ran: Duration,
    /// Bytes of its input files.
    pub sent: u64,
    /// Bytes of its stdout and of its output files.
    pub received: u64,
    /// How it ended.
    pub end: End,
    /// Its command line.
    pub command: &'a [u8],
}

/// How a task ended, as the log and the shell see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Its exit code; -1 if it has none, because it was killed for its time or could not run.
    pub exit: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
}

impl Line<'_> {
    /// Its bytes, with the newline.
    pub fn bytes(&self) -> Vec<u8> {
        let (started, ran) = (self.started.as_millis(), self.ran.as_millis());
        let ran = format!("{}.{:03}", ran / 1000, ran % 1000);
        let host = self.host.as_deref().unwrap_or(NOWHERE);
        let (End { exit, signal }, seconds, thousandths) = (self.end, started / 1000, started % 1000);
        let mut bytes = format!(
            "{}\t{host}\t{seconds}.{thousandths:03}\t{ran:>10}\t{}\t{}\t{exit}\t{signal}\t",
            self.seq, self.sent, self.received
        )
        .into_bytes();
        bytes.extend(command(self.command));
        bytes.push(b'\n');
        bytes
    }
}

/// A command line as a log has it: on one line, newlines are NULs.
pub fn command(line: &[u8]) -> Vec<u8> {
    let mut command = line[..line.len().min(COMMAND_BYTES)].to_vec();
    command.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = 0);
    command
}

/// The file, held by one program at a time.
#[derive(Debug)]
pub struct Joblog {
    file: File,
    path: PathBuf,
}

impl Joblog {
    /// Opens it. Without `again` an old one is overwritten, as GNU parallel does.
    ///
    /// # Errors
    /// When it cannot be written, another program writes to it, or it has something else than a log.
    pub fn open(path: PathBuf, again: Option<Again>) -> Result<(Self, Option<Logged>), Trouble> {
        if path.as_os_str() == "-" {
            return Err(Trouble::new(
                Code::Usage,
                "--joblog needs the name of a file; stdout has what the commands print",
            ));
        }
        let mut options = OpenOptions::new();
        options.append(true).create(true).read(again.is_some());
        let mut file = options.open(&path).map_err(|fault| unusable(&path, &fault))?;
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            let words =
                format!("another p2p map writes to the --joblog {}: wait for its end, or name another", path.display());
            return Err(Trouble::new(Code::CannotWrite, words));
        }
        let logged = again.map(|again| Logged::read(&file, &path, again)).transpose()?;
        let whole = logged.as_ref().map_or(0, Logged::whole_bytes);
        let prepared = file.metadata().and_then(|about| {
            if about.is_file() && about.len() > whole {
                file.set_len(whole)?;
            }
            if whole == 0 { file.write_all(HEADER) } else { Ok(()) }
        });
        prepared.map_err(|fault| unusable(&path, &fault))?;
        Ok((Self { file, path }, logged))
    }

    /// Appends a line.
    ///
    /// # Errors
    /// When it cannot be written. Nothing must be written after that, for a part of the line may be there.
    pub fn write(&mut self, line: &Line<'_>) -> Result<(), Trouble> {
        self.file.write_all(&line.bytes()).map_err(|fault| {
            let words = format!(
                "the --joblog {} cannot be written: {fault}; make room there, then go on with --resume",
                self.path.display()
            );
            Trouble::new(Code::CannotWrite, words)
        })
    }

    /// Its name.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn unusable(path: &Path, fault: &io::Error) -> Trouble {
    let words = format!("the --joblog {} cannot be written: {fault}; check its name and rights", path.display());
    Trouble::new(Code::CannotWrite, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_parallel_writes_it() {
        let line = Line {
            seq: 2,
            host: None,
            started: Duration::from_micros(1_795_487_623_153_999),
            ran: Duration::from_micros(110_900),
            sent: 0,
            received: 12,
            end: End { exit: 0, signal: 9 },
            command: b"sleep 0.1;\nkill\t-9 $$",
        };
        // GNU parallel 20221122, but for the moment.
        let expected = "2\t:\t1795487623.153\t     0.110\t0\t12\t0\t9\tsleep 0.1;\0kill\t-9 $$\n";
        assert_eq!(String::from_utf8(line.bytes()).unwrap(), expected);
        let ran = Duration::from_millis(12_345_678_901);
        let line = Line { host: Some("bob@pc:7".to_owned()), ran, end: End { exit: -1, signal: 15 }, ..line };
        let expected = "2\tbob@pc:7\t1795487623.153\t12345678.901\t0\t12\t-1\t15\tsleep 0.1;\0kill\t-9 $$\n";
        assert_eq!(String::from_utf8(line.bytes()).unwrap(), expected);
        assert_eq!(command(&vec![b'x'; COMMAND_BYTES + 1]).len(), COMMAND_BYTES);
    }

    #[test]
    fn a_torn_end_is_cut_off_and_two_programs_do_not_share_a_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let read = || String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
        let header = String::from_utf8(HEADER.to_vec()).unwrap();
        let line = "1\t:\t1.000\t     0.100\t0\t0\t0\t0\ttrue\n";
        let whole = header.clone() + line;
        for (before, after) in [
            (String::new(), &header),
            (header[..9].to_owned(), &header),
            (header.clone(), &header),
            (whole.clone(), &whole),
            (whole.clone() + "2\tbob", &whole),
            (whole.clone() + line.trim_end(), &whole),
        ] {
            std::fs::write(&path, before).unwrap();
            let (held, _) = Joblog::open(path.clone(), Some(Again::Missing)).unwrap();
            assert_eq!(&read(), after);
            assert_eq!(Joblog::open(path.clone(), None).unwrap_err().code(), Code::CannotWrite);
            assert_eq!(&read(), after, "who is refused changes nothing");
            drop(held);
        }
        Joblog::open(path.clone(), None).unwrap();
        assert_eq!(read(), header);
        assert!(Joblog::open("/dev/null".into(), None).is_ok());
        assert_eq!(Joblog::open(folder.path().into(), None).unwrap_err().code(), Code::CannotWrite);
    }
}
