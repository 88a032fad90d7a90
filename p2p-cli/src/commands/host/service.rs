//! `p2p host --service`: a unit for systemd's user manager that hosts as this command line would.

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::trouble::Trouble;

/// Options by environment that the service needs, too.
const PREFIX: &str = "P2P_";
/// Ways to the board, each also in small letters. `SSH_AUTH_SOCK` is none: the agent of a session ends with it.
const PROXIES: [&str; 3] = ["ALL_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// Writes the unit for `name`. Returns its file, and how to enable it.
pub fn write(name: &str) -> Result<(PathBuf, String), Trouble> {
    let folder =
        directories::BaseDirs::new().map(|dirs| dirs.config_dir().join("systemd").join("user")).ok_or_else(|| {
            Trouble::new(crate::trouble::Code::System, "no home folder is known, so there is no place for a service")
        })?;
    let unit = format!("p2p-host-{name}.service");
    let path = folder.join(&unit);
    let program =
        env::current_exe().map_err(|fault| Trouble::system("this program does not know where it is", fault))?;
    let here = env::current_dir().map_err(|fault| Trouble::system("the current folder is not known", fault))?;
    let mut words = vec![program.to_string_lossy().into_owned()];
    words.extend(env::args().skip(1).filter(|word| word != "--service"));
    if !words.iter().any(|word| word == "--duration" || word.starts_with("--duration=")) {
        words.extend(["--duration".to_owned(), "36500d".to_owned()]);
    }
    let environment: Vec<(String, String)> = env::vars().filter(|(name, _)| is_needed(name)).collect();
    fs::create_dir_all(&folder)
        .and_then(|()| write_private(&path, &text(name, &words, &environment, &here.to_string_lossy())))
        .map_err(|fault| Trouble::system(&format!("the service cannot be written to {}", path.display()), fault))?;
    let how =
        format!("systemctl --user daemon-reload && systemctl --user enable --now {unit} && loginctl enable-linger");
    Ok((path, how))
}

fn is_needed(variable: &str) -> bool {
    variable.starts_with(PREFIX) || PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(variable))
}

/// A proxy's address may have a password in it.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    beside.write_all(text.as_bytes())?;
    beside.persist(path)?;
    Ok(())
}

fn text(name: &str, words: &[String], environment: &[(String, String)], folder: &str) -> String {
    // Only there are variables filled in.
    let command: Vec<String> = words.iter().map(|word| quoted(word).replace('$', "$$")).collect();
    let environment: String = environment
        .iter()
        .map(|(name, value)| format!("Environment={}\n", quoted(&format!("{name}={value}"))))
        .collect();
    format!(
        "[Unit]\nDescription=p2p host of {name}\nAfter=network-online.target\nWants=network-online.target\n\n[Service]\nWorkingDirectory={}\n\
         {environment}ExecStart={}\nRestart=on-failure\nRestartSec=5\nNoNewPrivileges=yes\n\n[Install]\nWantedBy=default.target\n",
        folder.replace('%', "%%"),
        command.join(" ")
    )
}

/// As systemd reads it: in quotes, with its specifiers made plain.
fn quoted(word: &str) -> String {
    let plain = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("\"{plain}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_what_they_were() {
        let words = ["/opt/my p2p/p2p", "host", "--users", "bob,carol", "50% \"$HOME\" \\"].map(str::to_owned);
        let environment = [("P2P_BOARD", "ssh://hub"), ("ALL_PROXY", "http://bob:50%$x@proxy")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let unit = text("friends", &words, &environment, "/home/alice");
        assert!(unit.contains("\nEnvironment=\"P2P_BOARD=ssh://hub\"\n"), "{unit}");
        assert!(unit.contains("\nEnvironment=\"ALL_PROXY=http://bob:50%%$x@proxy\"\n"), "{unit}");
        let command = r#"ExecStart="/opt/my p2p/p2p" "host" "--users" "bob,carol" "50%% \"$$HOME\" \\""#;
        assert!(unit.lines().any(|line| line == command), "{unit}");
    }
}
