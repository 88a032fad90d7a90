//! `p2p host --service`: a unit for systemd's user manager that hosts as this command line would.

use std::env;
use std::fs;
use std::path::PathBuf;

use crate::trouble::Trouble;

/// Options by environment that the service needs, too.
const PREFIX: &str = "P2P_";

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
    let environment: Vec<(String, String)> = env::vars().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&path, text(name, &words, &environment, &here.to_string_lossy())))
        .map_err(|fault| Trouble::system(&format!("the service cannot be written to {}", path.display()), fault))?;
    let how =
        format!("systemctl --user daemon-reload && systemctl --user enable --now {unit} && loginctl enable-linger");
    Ok((path, how))
}

fn text(name: &str, words: &[String], environment: &[(String, String)], folder: &str) -> String {
    let command: Vec<String> = words.iter().map(|word| quoted(word)).collect();
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

/// As systemd reads it: in quotes, with its specifiers and variables made plain.
fn quoted(word: &str) -> String {
    let plain = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{plain}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_what_they_were() {
        let words = ["/opt/my p2p/p2p", "host", "--users", "bob,carol", "50% \"$HOME\" \\"].map(str::to_owned);
        let unit = text("friends", &words, &[("P2P_BOARD".to_owned(), "ssh://hub".to_owned())], "/home/alice");
        assert!(unit.contains("\nEnvironment=\"P2P_BOARD=ssh://hub\"\n"), "{unit}");
        let command = r#"ExecStart="/opt/my p2p/p2p" "host" "--users" "bob,carol" "50%% \"$$HOME\" \\""#;
        assert!(unit.lines().any(|line| line == command), "{unit}");
    }
}
