//! What may stand in `--ssh-args`: options of the `ssh` program, in its own spelling.
#![warn(clippy::disallowed_methods)]

/// Flags of `ssh` that take a value.
const WITH_VALUE: &str = "BbcDEeFIiJLlmOopQRSWw";
/// Flags that libssh2's connection needs nothing of, because they say nothing about how to get in: verbosity, compression, forwarding of
/// the agent, of X11, no terminal.
const NATIVE_PLAIN: &str = "aCkqTvxXYA";
/// Flags with a value that are understood here.
const NATIVE_VALUE: &str = "FiJlop";
/// Flags that would keep `ssh` from running a board's command.
const NEVER: &str = "fGMNnOQSstVWw";
/// Options by `-o` that are understood here, or that say nothing about how to get in.
const NATIVE_OPTIONS: [&str; 26] = [
    "identityfile",
    "identityagent",
    "identitiesonly",
    "userknownhostsfile",
    "globalknownhostsfile",
    "stricthostkeychecking",
    "hostkeyalias",
    "proxyjump",
    "proxycommand",
    "port",
    "hostname",
    "user",
    "batchmode",
    "checkhostip",
    "compression",
    "connecttimeout",
    "connectionattempts",
    "forwardagent",
    "hashknownhosts",
    "loglevel",
    "passwordauthentication",
    "kbdinteractiveauthentication",
    "preferredauthentications",
    "pubkeyauthentication",
    "serveraliveinterval",
    "serveralivecountmax",
];
/// Options by `-o` that are on by default somewhere and change nothing unless they are switched on.
const IF_ON: [&str; 3] = ["gssapiauthentication", "hostbasedauthentication", "proxyusefdpass"];

/// Options for `ssh`, checked for what makes no sense here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SshArgs {
    words: Vec<String>,
    options: Vec<(char, String)>,
}

/// Options that cannot be used; says why and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; write options of ssh, such as \"-J somehost\" or \"-o Port=2222\"")]
pub struct SshArgsError(String);

impl SshArgs {
    /// Takes the words of a command line, without `ssh` and without a host.
    ///
    /// # Errors
    /// Words that are no options, options without their value, and options that keep `ssh` from running a command.
    pub fn new(words: Vec<String>) -> Result<Self, SshArgsError> {
        let fault = |text: String| Err(SshArgsError(text));
        let mut options = Vec::new();
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            let Some(flags) = word.strip_prefix('-').filter(|flags| !flags.is_empty() && !flags.starts_with('-'))
            else {
                return fault(format!("{word:?} is no option of ssh"));
            };
            let mut flags = flags.chars();
            while let Some(flag) = flags.next() {
                if NEVER.contains(flag) {
                    return fault(format!("-{flag} would keep ssh from talking to the board"));
                }
                if !WITH_VALUE.contains(flag) {
                    options.push((flag, String::new()));
                    continue;
                }
                let attached: String = flags.by_ref().collect();
                let value = if attached.is_empty() { rest.next().cloned() } else { Some(attached) };
                let Some(value) = value else { return fault(format!("-{flag} lacks its value")) };
                options.push((flag, value));
            }
        }
        Ok(Self { words, options })
    }

    /// The words as they were given.
    pub(crate) fn words(&self) -> &[String] {
        &self.words
    }

    /// The value of a flag; `ssh` takes the first one.
    pub(crate) fn value(&self, flag: char) -> Option<&str> {
        self.options.iter().find(|(given, _)| *given == flag).map(|(_, value)| value.as_str())
    }

    /// All values of a flag.
    pub(crate) fn values(&self, flag: char) -> impl Iterator<Item = &str> {
        self.options.iter().filter(move |(given, _)| *given == flag).map(|(_, value)| value.as_str())
    }

    /// The options by `-o`, names in lower case.
    pub(crate) fn named(&self) -> impl Iterator<Item = (String, &str)> {
        self.values('o').map(|option| {
            let (name, value) = option.split_once(['=', ' ', '\t']).unwrap_or((option, ""));
            (name.trim().to_ascii_lowercase(), value.trim().trim_start_matches('=').trim())
        })
    }

    /// What libssh2's connection does not know how to do, as it was given.
    pub(crate) fn beyond_native(&self) -> Vec<String> {
        let flags =
            self.options.iter().filter(|(flag, _)| !NATIVE_PLAIN.contains(*flag) && !NATIVE_VALUE.contains(*flag));
        let mut beyond: Vec<String> = flags.map(|(flag, value)| format!("-{flag} {value}").trim().to_owned()).collect();
        beyond.extend(self.named().filter_map(|(name, value)| {
            let off = IF_ON.contains(&name.as_str()) && !value.eq_ignore_ascii_case("yes");
            (!off && !NATIVE_OPTIONS.contains(&name.as_str())).then(|| format!("-o {name}={value}"))
        }));
        beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Result<SshArgs, SshArgsError> {
        SshArgs::new(line.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn flags_and_values_are_told_apart_as_ssh_does() {
        let args = args("-vJ a,b -p2222 -o Port=22 -oHostName=x -i k1 -i k2 -F none").unwrap();
        assert_eq!((args.value('J'), args.value('p'), args.value('F')), (Some("a,b"), Some("2222"), Some("none")));
        assert_eq!(args.values('i').collect::<Vec<_>>(), ["k1", "k2"]);
        assert_eq!(args.named().collect::<Vec<_>>(), [("port".to_owned(), "22"), ("hostname".to_owned(), "x")]);
        assert_eq!(args.beyond_native(), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_option_or_ends_ssh_is_refused() {
        for bad in ["somehost", "-J", "-N", "-W h:1", "-vN", "--", "-", "-o", "-S x", "-J a b"] {
            assert!(args(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn what_libssh2_cannot_do_is_named() {
        for beyond in
            ["-o GSSAPIAuthentication=yes", "-I lib.so", "-o CertificateFile=x", "-4", "-o ProxyUseFdpass=yes"]
        {
            assert_eq!(args(beyond).unwrap().beyond_native().len(), 1, "{beyond}");
        }
        assert!(args("-o GSSAPIAuthentication=no -C -q").unwrap().beyond_native().is_empty());
    }
}
