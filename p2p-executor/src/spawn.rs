//! Starts a program: in a session of its own, in its folder, with its environment, and with nothing open but 0, 1 and 2.
//!
//! This calls `posix_spawn` itself, the only unsafe code of the crate. `std::process::Command` starts as fast, but has no stable way to
//! ask for a new session: a command would keep the worker's terminal, could stop for ever by reading from it, and could type
//! into it. `pre_exec` is unsafe too, and forks, which costs more the more memory the worker has.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use rustix::process::Pid;

/// What to start.
pub(crate) struct Launch<'a> {
    /// The program file; relative to `folder` unless absolute.
    pub(crate) program: &'a CStr,
    /// Program name and arguments.
    pub(crate) argv: &'a [CString],
    /// The whole environment, `NAME=value`.
    pub(crate) env: &'a [CString],
    /// Where it runs.
    pub(crate) folder: &'a CStr,
    /// Its stdin, stdout and stderr; none of them may be 0, 1 or 2 here.
    pub(crate) stdio: [BorrowedFd<'a>; 3],
}

/// Starts it; returns when the program itself runs, or could not be executed.
///
/// The child leads a new session and process group, has every signal unblocked and at its default, and keeps no other file open.
/// The caller must wait for it.
///
/// # Errors
/// What `chdir`, `execve` or `fork` reports.
pub(crate) fn spawn(launch: &Launch<'_>) -> io::Result<Pid> {
    let attributes = Attributes::new()?;
    let actions = Actions::new()?;
    for (target, fd) in (0..).zip(launch.stdio) {
        // SAFETY: `actions` is initialised; the descriptors are open as long as `launch` is borrowed.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(actions.get(), fd.as_raw_fd(), target) })?;
    }
    // SAFETY: `actions` is initialised; the C library copies the path.
    check(unsafe { libc::posix_spawn_file_actions_addchdir_np(actions.get(), launch.folder.as_ptr()) })?;
    let argv = pointers(launch.argv);
    let env = pointers(launch.env);
    let mut pid = 0;
    // SAFETY: everything pointed to is initialised, lives until the call returns, and both arrays end with a null pointer.
    check(unsafe {
        libc::posix_spawn(
            &mut pid,
            launch.program.as_ptr(),
            actions.get(),
            attributes.get(),
            argv.as_ptr(),
            env.as_ptr(),
        )
    })?;
    Pid::from_raw(pid).ok_or_else(|| io::Error::other("the system gave a new process no number"))
}

/// Lets no command inherit what this process has open now, such as files that its own parent left open.
///
/// Everything that Rust's library opens is so already.
pub(crate) fn close_on_exec_from_here() {
    // SAFETY: changes a flag of descriptors, and no memory.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done != 0 {
        // Linux before 5.11 has no such call.
        log::debug!("commands inherit what this process inherited: {}", io::Error::last_os_error());
    }
}

struct Attributes(Box<MaybeUninit<libc::posix_spawnattr_t>>);

impl Attributes {
    fn new() -> io::Result<Self> {
        let mut attributes = Box::new(MaybeUninit::uninit());
        // SAFETY: initialises what it is given.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        let mut this = Self(attributes);
        let to = this.0.as_mut_ptr();
        let mut signals = MaybeUninit::uninit();
        let flags = libc::POSIX_SPAWN_SETSID as i32 | libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        // SAFETY: `to` is initialised, and `signals` is by `sigemptyset` and `sigfillset` before each use.
        unsafe {
            libc::sigemptyset(signals.as_mut_ptr());
            check(libc::posix_spawnattr_setsigmask(to, signals.as_ptr()))?;
            libc::sigfillset(signals.as_mut_ptr());
            check(libc::posix_spawnattr_setsigdefault(to, signals.as_ptr()))?;
            check(libc::posix_spawnattr_setflags(to, flags as libc::c_short))?;
        }
        Ok(this)
    }

    fn get(&self) -> *const libc::posix_spawnattr_t {
        self.0.as_ptr()
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: was initialised by `new`, and is not used after this.
        unsafe { libc::posix_spawnattr_destroy(self.0.as_mut_ptr()) };
    }
}

struct Actions(std::cell::UnsafeCell<libc::posix_spawn_file_actions_t>);

impl Actions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: initialises what it is given, which `assume_init` relies on; the type may be moved.
        unsafe {
            check(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
            Ok(Self(actions.assume_init().into()))
        }
    }

    fn get(&self) -> *mut libc::posix_spawn_file_actions_t {
        self.0.get()
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: was initialised by `new`, and is not used after this.
        unsafe { libc::posix_spawn_file_actions_destroy(self.0.get()) };
    }
}

/// The strings as C wants them.
fn pointers(strings: &[CString]) -> Vec<*mut c_char> {
    strings.iter().map(|string| string.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}

/// These calls return their error instead of setting it.
fn check(code: i32) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}
