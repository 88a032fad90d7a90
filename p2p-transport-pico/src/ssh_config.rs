//! How OpenSSH would get to a host, as its `ssh -G` prints it: that has read the configuration, with everything that `Host`, `Match`
//! and `Include` mean there. Where there is no `ssh`, the options of the command line alone.
#![warn(clippy::disallowed_methods)]

use crate::ssh_args::SshArgs;

/// Machines between here and the board.
pub(crate) const HOPS: usize = 8;

/// The way to one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) hostname: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) user: Option<String>,
    /// Key files that somebody has named; without any the usual ones are tried.
    pub(crate) identity_files: Vec<String>,
    pub(crate) identities_only: bool,
    /// A socket, `none` or `SSH_AUTH_SOCK`.
    pub(crate) identity_agent: Option<String>,
    /// Files of known hosts that somebody has named.
    pub(crate) known_hosts: Vec<String>,
    pub(crate) global_known_hosts: Vec<String>,
    pub(crate) host_key_alias: Option<String>,
    pub(crate) strict: Strict,
    pub(crate) proxy_jump: Option<String>,
    pub(crate) proxy_command: Option<String>,
    /// What libssh2's connection does not know how to do.
    pub(crate) beyond: Vec<String>,
}

/// What to do about a server that was never seen before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Strict {
    /// Ask a person.
    #[default]
    Ask,
    /// Note its key and go on.
    AcceptNew,
    /// Refuse it.
    Refuse,
}

impl Settings {
    /// Reads what `ssh -G` printed.
    ///
    /// # Errors
    /// A line that has not the form `NAME VALUE`, or a value that makes no sense.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut settings = Self::default();
        let mut hosts = 0;
        for line in text.lines() {
            let (name, value) = line.split_once(' ').unwrap_or((line, ""));
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
                return Err(format!("`ssh -G` printed {:?}", line.chars().take(80).collect::<String>()));
            }
            hosts += usize::from(name == "hostname");
            settings.set(&name.to_ascii_lowercase(), value)?;
        }
        if hosts != 1 {
            return Err("`ssh -G` did not name the host".to_owned());
        }
        Ok(settings)
    }

    /// Where nobody can be asked about the configuration: what the options themselves say.
    ///
    /// # Errors
    /// A value that makes no sense.
    pub(crate) fn of_options(args: &SshArgs) -> Result<Self, String> {
        let mut settings = Self::default();
        // In `ssh` the first value counts.
        for (name, value) in args.named().collect::<Vec<_>>().into_iter().rev() {
            settings.set(&name, value)?;
        }
        settings.identity_files.reverse();
        for (flag, name) in [('J', "proxyjump"), ('l', "user"), ('p', "port")] {
            if let Some(value) = args.value(flag) {
                settings.set(name, value)?;
            }
        }
        for file in args.values('i') {
            settings.set("identityfile", file)?;
        }
        Ok(settings)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let some = |value: &str| Some(value).filter(|value| *value != "none").map(str::to_owned);
        let yes = value.eq_ignore_ascii_case("yes");
        let files = || value.split_whitespace().filter(|file| *file != "none").map(str::to_owned).collect::<Vec<_>>();
        match name {
            "hostname" => self.hostname = Some(value.to_owned()),
            "port" => {
                let port = value.parse().ok().filter(|port| *port != 0);
                self.port = Some(port.ok_or_else(|| format!("the port {value:?} is not 1 to 65535"))?);
            }
            "user" => self.user = Some(value.to_owned()),
            "identityfile" if is_usual_key(value) => {}
            "identityfile" => self.identity_files.push(value.to_owned()),
            "identitiesonly" => self.identities_only = yes,
            "identityagent" => self.identity_agent = Some(value.to_owned()),
            "userknownhostsfile" if is_usual_known_hosts(value) => {}
            "userknownhostsfile" => self.known_hosts = files(),
            "globalknownhostsfile" => self.global_known_hosts = files(),
            "hostkeyalias" => self.host_key_alias = some(value),
            "stricthostkeychecking" => {
                self.strict = match value.to_ascii_lowercase().as_str() {
                    "yes" | "true" => Strict::Refuse,
                    "accept-new" | "no" | "off" | "false" => Strict::AcceptNew,
                    _ => Strict::Ask,
                }
            }
            "proxyjump" => self.proxy_jump = some(value),
            "proxycommand" => self.proxy_command = some(value),
            "certificatefile" | "pkcs11provider" | "knownhostscommand" | "bindaddress" | "bindinterface"
                if some(value).is_some() =>
            {
                self.beyond.push(format!("{name} {value}"));
            }
            "hostbasedauthentication" | "proxyusefdpass" if yes => self.beyond.push(format!("{name} {value}")),
            "addressfamily" if value != "any" => self.beyond.push(format!("{name} {value}")),
            _ => {}
        }
        Ok(())
    }
}

/// One machine of `-J`: `[USER@]HOST[:PORT]` or `ssh://[USER@]HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) user: Option<String>,
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
}

/// Reads the list of `-J`.
///
/// # Errors
/// More than [`HOPS`] machines, and one that cannot be a machine.
pub(crate) fn hops(list: &str) -> Result<Vec<Hop>, String> {
    let hops: Vec<Hop> = list.split(',').map(hop).collect::<Result<_, _>>()?;
    if hops.len() > HOPS {
        return Err(format!("{} machines are too many to jump over; at most {HOPS}", hops.len()));
    }
    Ok(hops)
}

fn hop(text: &str) -> Result<Hop, String> {
    let wrong = || format!("{text:?} is no machine to jump over: write [USER@]HOST[:PORT]");
    let rest = text.trim().strip_prefix("ssh://").unwrap_or(text.trim());
    let (user, place) = match rest.rsplit_once('@') {
        Some((user, place)) => (Some(user.to_owned()), place),
        None => (None, rest),
    };
    let (host, port) = match place.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, after)) => (host, Some(after.strip_prefix(':').ok_or_else(wrong)?)),
        // More than one colon is an IPv6 address without brackets.
        None if place.matches(':').count() == 1 => {
            place.split_once(':').map(|(host, port)| (host, Some(port))).ok_or_else(wrong)?
        }
        None => (place, None),
    };
    let port = port.map(|port| port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)).transpose()?;
    let plain = |text: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.chars().all(|c| c.is_ascii_graphic() && !"'\"`\\$;&|<>(){}".contains(c))
    };
    if !plain(host) || user.as_deref().is_some_and(|user| !plain(user)) {
        return Err(wrong());
    }
    Ok(Hop { user, host: host.to_owned(), port })
}

/// Replaces `%h`, `%p`, `%r`, `%n` and `%%`.
///
/// # Errors
/// Another letter.
pub(crate) fn expand(text: &str, host: &str, port: u16, user: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, (c == '%').then(|| chars.next()).flatten()) {
            ('%', Some('h' | 'n')) => out.push_str(host),
            ('%', Some('p')) => out.push_str(&port.to_string()),
            ('%', Some('r')) => out.push_str(user),
            ('%', Some('%')) => out.push('%'),
            ('%', other) => return Err(format!("%{} is not known here", other.map(String::from).unwrap_or_default())),
            (c, _) => out.push(c),
        }
    }
    Ok(out)
}

/// `ssh -G` prints the files that it tries by itself with a tilde.
fn is_usual_key(file: &str) -> bool {
    file.strip_prefix("~/.ssh/id_").is_some_and(|kind| !kind.contains('/'))
}

fn is_usual_known_hosts(files: &str) -> bool {
    let files: Vec<&str> = files.split_whitespace().collect();
    matches!(files[..], [first, second] if first.ends_with("/.ssh/known_hosts") && second.ends_with("/.ssh/known_hosts2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "host pipe.pico.sh\nuser bob\nhostname 192.0.2.7\nport 2222\naddressfamily any\nidentitiesonly yes\n\
        proxyusefdpass no\nstricthostkeychecking accept-new\nidentityagent none\nidentityfile ~/.ssh/id_rsa\nidentityfile ~/.ssh/work\n\
        globalknownhostsfile /etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2\nuserknownhostsfile /home/b/known\nproxyjump a,me@[::1]:22\n";

    #[test]
    fn what_ssh_prints_is_read() {
        let settings = Settings::parse(PRINTED).unwrap();
        assert_eq!((settings.hostname.as_deref(), settings.port), (Some("192.0.2.7"), Some(2222)));
        assert_eq!(settings.identity_files, ["~/.ssh/work"]);
        assert_eq!((settings.identities_only, settings.strict), (true, Strict::AcceptNew));
        assert_eq!(settings.known_hosts, ["/home/b/known"]);
        assert_eq!(settings.global_known_hosts.len(), 2);
        assert_eq!(settings.proxy_jump.as_deref(), Some("a,me@[::1]:22"));
        assert!(settings.beyond.is_empty() && settings.proxy_command.is_none());
    }

    #[test]
    fn what_ssh_does_not_print_is_refused() {
        for bad in [
            "",
            "hostname a\nhostname b\n",
            "hostname a\nport 0\n",
            "hostname a\nport x\n",
            "hostname a\n\u{1b}[2J x\n",
            "usage: ssh\n",
        ] {
            assert!(Settings::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn what_libssh2_cannot_do_is_noticed() {
        for beyond in
            ["proxyusefdpass yes", "certificatefile ~/x-cert.pub", "addressfamily inet6", "pkcs11provider /lib/x.so"]
        {
            assert_eq!(Settings::parse(&format!("hostname a\n{beyond}\n")).unwrap().beyond, [beyond]);
        }
        assert!(Settings::parse("hostname a\npkcs11provider none\n").unwrap().beyond.is_empty());
    }

    #[test]
    fn without_ssh_the_options_speak_for_themselves() {
        let words = ["-J", "me@a:2222", "-i", "k1", "-o", "Port=7", "-o", "port=8", "-o", "IdentityFile=k2"];
        let args = SshArgs::new(words.map(str::to_owned).to_vec()).unwrap();
        let settings = Settings::of_options(&args).unwrap();
        assert_eq!((settings.port, settings.proxy_jump.as_deref()), (Some(7), Some("me@a:2222")));
        assert_eq!(settings.identity_files, ["k2", "k1"]);
    }

    #[test]
    fn jumps_are_read_and_bounded() {
        let hop =
            |user: Option<&str>, host: &str, port| Hop { user: user.map(str::to_owned), host: host.to_owned(), port };
        let list = "a,me@b:22,ssh://[::1]:2222,fe80::1";
        let read = [
            hop(None, "a", None),
            hop(Some("me"), "b", Some(22)),
            hop(None, "::1", Some(2222)),
            hop(None, "fe80::1", None),
        ];
        assert_eq!(hops(list).unwrap(), read);
        for bad in ["", "a,,b", "-oProxyCommand=x", "a:0", "a:x", "a;b", "@a", &["a"; HOPS + 1].join(",")] {
            assert!(hops(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_proxy_commands_letters_are_replaced() {
        assert_eq!(expand("nc %h %p # %r 100%%", "h", 22, "u").unwrap(), "nc h 22 # u 100%");
        assert!(expand("%C", "h", 22, "u").is_err() && expand("%", "h", 22, "u").is_err());
    }
}
