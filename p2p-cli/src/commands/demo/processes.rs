//! The demonstration's processes: started from this same program, heard, and ended with it.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_std::channel::{Receiver, Sender, unbounded};
use async_std::future::timeout;

use crate::trouble::{Code, Trouble};

/// Set for a process that must end with the one that started it.
pub const WITH_PARENT: &str = "P2P_WITH_PARENT";

/// Ends this process when its parent does, if it was started so: a demonstration leaves nothing behind, however it ends.
pub fn follow_parent() {
    if std::env::var_os(WITH_PARENT).is_some() {
        #[cfg(target_os = "linux")]
        if let Err(fault) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM)) {
            log::warn!("this process will not end with its parent: {fault}");
        }
    }
}

/// A process to start.
pub struct Role {
    pub name: String,
    pub variables: Vec<(&'static str, OsString)>,
}

/// A running one; dropping it ends it.
pub struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
}

impl Role {
    fn command(&self, arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Trouble> {
        let program =
            std::env::current_exe().map_err(|fault| Trouble::system("this program cannot find itself", fault))?;
        let mut command = Command::new(program);
        command.args(arguments);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("P2P_") {
                command.env_remove(name);
            }
        }
        command
            .envs(self.variables.iter().cloned())
            .env(WITH_PARENT, "1")
            .env("NO_PROXY", "*")
            .env("no_proxy", "*")
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Starts it and listens to what it says.
    pub fn start(&self, arguments: impl IntoIterator<Item = OsString>) -> Result<Process, Trouble> {
        let mut child = self
            .command(arguments)?
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|fault| Trouble::system(&format!("{} cannot be started", self.name), fault))?;
        let (heard, lines) = unbounded();
        for stream in [child.stdout.take().map(boxed), child.stderr.take().map(boxed)].into_iter().flatten() {
            let (name, heard) = (self.name.clone(), heard.clone());
            std::thread::spawn(move || listen(&name, stream, &heard));
        }
        Ok(Process { name: self.name.clone(), child, lines })
    }

    /// Runs it to its end, speaking for itself; its exit code.
    pub async fn run(&self, arguments: impl IntoIterator<Item = OsString>) -> Result<i32, Trouble> {
        let cannot = |fault| Trouble::system(&format!("{} cannot be run", self.name), fault);
        let mut command = async_process::Command::from(self.command(arguments)?);
        let status = command.kill_on_drop(true).status().await.map_err(cannot)?;
        Ok(status.code().unwrap_or(Code::Failed as i32))
    }
}

impl Process {
    /// Waits until it says a line that is `wanted`.
    pub async fn said(&self, wanted: impl Fn(&str) -> bool, within: Duration) -> Result<String, Trouble> {
        let mut said = Vec::new();
        let hear = async {
            while let Ok(line) = self.lines.recv().await {
                if wanted(&line) {
                    return Some(line);
                }
                said.push(line);
            }
            None
        };
        let heard = timeout(within, hear).await.ok().flatten();
        heard.ok_or_else(|| {
            let words =
                if said.is_empty() { "it said nothing".to_owned() } else { format!("it said:\n{}", said.join("\n")) };
            Trouble::new(Code::System, format!("{} did not become ready; {words}", self.name))
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            // It may have ended by itself; it is reaped below either way.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

fn boxed(stream: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(stream)
}

/// Passes lines on, and shows them with `-v`.
fn listen(name: &str, stream: Box<dyn Read + Send>, heard: &Sender<String>) {
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        log::info!("[{name}] {line}");
        // Nobody waits for a line any more.
        let _ = heard.try_send(line);
    }
}
