//! From a task's command to what the system is asked to run: program file, arguments, environment; and why it would not run.

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use p2p_proto::task::{Command, Failure, FailureKind};
use rustix::io::Errno;

use crate::failure::{errno, shown, worker_failure};
use crate::leftovers::TOKEN_VARIABLE;
use crate::scratch::Scratch;

/// A `#!` line is looked at this far; the kernel's own limit.
const INTERPRETER_LINE_BYTES: u64 = 256;

/// A command as the system wants it.
#[derive(Debug)]
pub(crate) struct Program {
    /// The program file.
    pub(crate) file: CString,
    /// Its name as given, and its arguments.
    pub(crate) argv: Vec<CString>,
    /// `NAME=value`, each name once.
    pub(crate) env: Vec<CString>,
    /// Where it runs.
    pub(crate) folder: CString,
}

impl Program {
    /// Checks the command and finds its program.
    ///
    /// # Errors
    /// A NUL where none may be, a name of a variable that is none, and a program that is not there or cannot be executed.
    pub(crate) fn resolve(
        command: &Command,
        cpus: u32,
        defaults: &Environment,
        scratch: &Scratch,
    ) -> Result<Self, Failure> {
        let mut argv = Vec::with_capacity(command.argv.len());
        for (index, argument) in command.argv.iter().enumerate() {
            argv.push(c_string(argument.as_slice(), || match index {
                0 => "the program's name".to_owned(),
                index => format!("argument {index} of the command"),
            })?);
        }
        let name = command.argv.first().map(|name| name.as_slice()).unwrap_or_default();
        if name.is_empty() {
            let message = "the command has no program: its name is empty; say what to run";
            return Err(Failure::new(FailureKind::Malformed, message));
        }
        let folder = c_string(scratch.path().as_os_str().as_bytes(), || "the task's folder".to_owned())?;
        let path = command.env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| OsStr::new(value));
        let file = find(name, path.unwrap_or(&defaults.path), scratch.path())?;
        let file = c_string(file.as_os_str().as_bytes(), || "the program's path".to_owned())?;
        let env = defaults.of_attempt(command, cpus, scratch)?;
        Ok(Self { file, argv, env, folder })
    }

    /// Says why it did not start.
    pub(crate) fn start_failure(&self, error: &io::Error) -> Failure {
        // Relative to the folder, or absolute.
        let folder = Path::new(OsStr::from_bytes(self.folder.as_bytes()));
        let file = folder.join(OsStr::from_bytes(self.file.as_bytes()));
        let name = shown(self.argv.first().map(|name| name.as_bytes()).unwrap_or_default());
        match errno(error) {
            Some(Errno::NOENT | Errno::NOTDIR) if file.exists() => match interpreter(&file) {
                Some(interpreter) => Failure::new(
                    FailureKind::CommandNotFound,
                    format!(
                        "{name} is there, but the interpreter in its first line, {interpreter}, is not on this worker; \
                         install it there, or name another one"
                    ),
                ),
                None => Failure::new(
                    FailureKind::CommandNotFound,
                    format!(
                        "{name} is there, but the loader that it needs is not on this worker: it was built for another \
                         system; use a program built for this one, or a static one"
                    ),
                ),
            },
            Some(Errno::NOENT | Errno::NOTDIR) if !folder.exists() => {
                Failure::new(FailureKind::Worker, format!("the task's folder {} was removed", folder.display()))
            }
            Some(Errno::NOENT | Errno::NOTDIR) => not_found(&name),
            Some(Errno::ACCESS | Errno::PERM) => not_executable(&name, &file),
            Some(Errno::NOEXEC) => Failure::new(
                FailureKind::NotExecutable,
                format!(
                    "{name} is neither a program for this worker's machine nor a script that begins with #!; let a script's \
                     first line name its interpreter, such as #!/bin/sh, or run it as: sh {name}"
                ),
            ),
            Some(Errno::TOOBIG) => Failure::new(
                FailureKind::TooLarge,
                format!(
                    "the arguments and variables of {name} are too long for this worker's system; pass them in a file"
                ),
            ),
            Some(Errno::LOOP) => Failure::new(
                FailureKind::NotExecutable,
                format!("{name} cannot be run: its symbolic links or interpreters lead in a circle; mend them"),
            ),
            _ => worker_failure(&format!("starting {name}"), error),
        }
    }
}

/// What every command's environment has.
#[derive(Debug)]
pub(crate) struct Environment {
    path: OsString,
    user: String,
}

impl Environment {
    /// With this `PATH`, for this user.
    pub(crate) fn new(path: &OsStr, user: String) -> Self {
        Self { path: path.into(), user }
    }

    /// The clean environment, changed as the task asks. The token alone cannot be changed.
    fn of_attempt(&self, command: &Command, cpus: u32, scratch: &Scratch) -> Result<Vec<CString>, Failure> {
        let folder = scratch.path().as_os_str().as_bytes();
        let cpus = cpus.to_string();
        let clean: [(&str, &[u8]); 9] = [
            (TOKEN_VARIABLE, scratch.token().as_bytes()),
            ("HOME", folder),
            ("LANG", b"C.UTF-8"),
            ("LC_ALL", b"C.UTF-8"),
            ("P2P_CPUS", cpus.as_bytes()),
            ("PATH", self.path.as_bytes()),
            ("PWD", folder),
            ("TMPDIR", folder),
            ("USER", self.user.as_bytes()),
        ];
        let asked = |name: &str| name != TOKEN_VARIABLE && command.env.iter().any(|(asked, _)| asked == name);
        let mut env = Vec::with_capacity(clean.len() + command.env.len());
        for (name, value) in clean.into_iter().filter(|(name, _)| !asked(name)) {
            env.push(variable(name, value)?);
        }
        for (index, (name, value)) in command.env.iter().enumerate() {
            if name.is_empty() || name.contains('=') {
                let message = format!("\"{}\" cannot be the name of a variable; use another", shown(name.as_bytes()));
                return Err(Failure::new(FailureKind::Malformed, message));
            }
            let repeated = command.env.iter().skip(index + 1).any(|(later, _)| later == name);
            if !repeated && name != TOKEN_VARIABLE {
                env.push(variable(name, value.as_bytes())?);
            }
        }
        Ok(env)
    }
}

/// The name of the user who runs this worker.
pub(crate) fn user() -> String {
    let named = ["USER", "LOGNAME"].into_iter().filter_map(|name| env::var(name).ok());
    named.into_iter().find(|name| !name.is_empty()).unwrap_or_else(|| rustix::process::geteuid().as_raw().to_string())
}

/// Finds a program as a shell does. A name with `/` is taken as it is, from the task's folder.
fn find(name: &[u8], path: &OsStr, folder: &Path) -> Result<PathBuf, Failure> {
    let name_path = Path::new(OsStr::from_bytes(name));
    if name.contains(&b'/') {
        return Ok(name_path.to_owned());
    }
    let mut refused = None;
    for place in env::split_paths(path) {
        // An empty or relative place counts from the task's folder, where the command runs.
        let file = folder.join(place).join(name_path);
        match fs::metadata(&file) {
            Ok(about) if about.is_file() => {
                if rustix::fs::access(&file, rustix::fs::Access::EXEC_OK).is_ok() {
                    return Ok(file);
                }
                refused.get_or_insert(file);
            }
            _ => {}
        }
    }
    let name = shown(name);
    Err(refused.map_or_else(|| not_found(&name), |file| not_executable(&name, &file)))
}

fn not_found(name: &str) -> Failure {
    let message = format!(
        "{name}: not found on this worker; check the spelling, install it there, or send it along as an input file and \
         run it as ./{}",
        name.rsplit('/').next().unwrap_or(name)
    );
    Failure::new(FailureKind::CommandNotFound, message)
}

fn not_executable(name: &str, file: &Path) -> Failure {
    let message = match fs::metadata(file) {
        Ok(about) if about.is_dir() => format!("{name} is a folder, not a program; name a program in it"),
        Ok(about) if about.permissions().mode() & 0o111 == 0 => {
            format!("{name} is there ({}) but not executable; set its executable bit", file.display())
        }
        _ => format!(
            "this worker's user may not execute {name} ({}): by its rights, its interpreter's, or a file system that \
             runs nothing (noexec); ask the worker's owner",
            file.display()
        ),
    };
    Failure::new(FailureKind::NotExecutable, message)
}

/// What the `#!` line of a script names.
fn interpreter(file: &Path) -> Option<String> {
    let mut start = Vec::new();
    File::open(file).ok()?.take(INTERPRETER_LINE_BYTES).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    // Shows the carriage return of a script from Windows, a frequent reason.
    let name = line.trim_ascii_start().split(|byte| matches!(byte, b' ' | b'\t')).next()?;
    Some(format!("\"{}\"", shown(name)))
}

fn variable(name: &str, value: &[u8]) -> Result<CString, Failure> {
    let mut entry = Vec::with_capacity(name.len() + 1 + value.len() + 1);
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'=');
    entry.extend_from_slice(value);
    c_string(entry, || format!("the variable {}", shown(name.as_bytes())))
}

fn c_string(bytes: impl Into<Vec<u8>>, what: impl FnOnce() -> String) -> Result<CString, Failure> {
    CString::new(bytes).map_err(|_| {
        let message = format!("{} has a NUL byte, which no program can be given; pass it in a file or stdin", what());
        Failure::new(FailureKind::Malformed, message)
    })
}
