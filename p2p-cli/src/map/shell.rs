//! What a shell makes of a value, and which lines need none.

/// Writes a value so that a shell takes it as one word, in the way that GNU parallel does.
pub fn quote(value: &[u8], out: &mut Vec<u8>) {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.+/".contains(byte);
    if value.is_empty() {
        out.extend_from_slice(b"''");
    } else if value.iter().all(plain) {
        out.extend_from_slice(value);
    } else {
        let mut quoted = b"'".to_vec();
        for byte in value {
            match byte {
                b'\'' => quoted.extend_from_slice(b"'\"'\"'"),
                byte => quoted.push(*byte),
            }
        }
        quoted.push(b'\'');
        let quoted = quoted.strip_prefix(b"''").unwrap_or(&quoted);
        out.extend_from_slice(quoted.strip_suffix(b"''").unwrap_or(quoted));
    }
}

/// The words of a line that is only a program and its arguments, so that no shell has to be started for it; `None` for all other lines.
///
/// When in doubt it is `None`: anything that a shell may expand, everything that a shell does itself in a way that a program could not or
/// would do otherwise, and programs with a path, for a shell runs a script without `#!` and the system does not.
pub fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words: Vec<Vec<u8>> = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b' ' | b'\t' => words.extend(word.take()),
            b'\'' | b'"' => {
                let end = rest.iter().position(|other| *other == byte)?;
                let inside = &rest[..end];
                if byte == b'"' && inside.iter().any(|byte| b"$`\\!".contains(byte)) {
                    return None;
                }
                word.get_or_insert_default().extend_from_slice(inside);
                rest = &rest[end + 1..];
            }
            byte if byte.is_ascii_alphanumeric() || b"-_.+/:,@%=".contains(&byte) => {
                word.get_or_insert_default().push(byte);
            }
            _ => return None,
        }
    }
    words.extend(word);
    let program = words.first()?;
    let of_the_shell = program.is_empty()
        || program.iter().any(|byte| b"/=%".contains(byte))
        || OF_THE_SHELL.split(' ').any(|word| word.as_bytes() == program);
    (!of_the_shell).then_some(words)
}

/// Reserved words and builtins of dash, bash and others that may be `/bin/sh`; `true` and `false` are the same as programs.
const OF_THE_SHELL: &str = "\
    . : alias autoload bg bind break builtin caller case cd chdir command compgen complete compopt continue coproc \
    declare dirs disown do done echo elif else enable esac eval exec exit export fc fg fi for function getopts \
    hash help history if in integer jobs kill let local logout mapfile nameref popd print printf pushd pwd read \
    readarray readonly return select set shift shopt source stop suspend test then time times trap type typeset \
    ulimit umask unalias unset until wait whence while";

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(value: &str) -> String {
        let mut out = Vec::new();
        quote(value.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_are_quoted_as_parallel_does() {
        let table = [
            ("", "''"),
            ("a-_.+/Z9", "a-_.+/Z9"),
            ("a b", "'a b'"),
            ("it's", r#"'it'"'"'s'"#),
            ("'", r#""'""#),
            ("''", r#""'""'""#),
            ("ü", "'ü'"),
            ("a=b", "'a=b'"),
            ("~", "'~'"),
            ("a\nb", "'a\nb'"),
            ("$x`y`\\\"!", "'$x`y`\\\"!'"),
        ];
        for (value, expected) in table {
            // Two adjacent quotes are written with the single quotes between them, as parallel does.
            let expected = if value == "''" { r#""'"''"'""# } else { expected };
            assert_eq!(quoted(value), expected, "of {value:?}");
        }
    }

    #[test]
    fn a_shell_gives_the_quoted_value_back() {
        for value in
            ["", "a b", "it's", "'", "'''", "\"'\"", "ü\t\\n$HOME`x`*?[]{}!#&|;<>()~", " lead and trail ", "a\nb\n"]
        {
            let line = format!("printf %s {}", quoted(value));
            let output = std::process::Command::new("/bin/sh").arg("-c").arg(&line).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), value, "{line}");
        }
    }

    #[test]
    fn plain_lines_need_no_shell() {
        let text = |line: &str| {
            words(line.as_bytes())
                .map(|words| words.into_iter().map(|word| String::from_utf8(word).unwrap()).collect::<Vec<_>>())
        };
        assert_eq!(text("true 1").unwrap(), ["true", "1"]);
        assert_eq!(text(" xz  -9 -k 'a b'\"c d\"e '' ").unwrap(), ["xz", "-9", "-k", "a bc de", ""]);
        assert_eq!(text("gcc -DX=1 @args a:b,c%d").unwrap(), ["gcc", "-DX=1", "@args", "a:b,c%d"]);
        assert_eq!(text("cat \"'\"").unwrap(), ["cat", "'"]);
        for line in [
            "",
            " ",
            "a|b",
            "a>b",
            "a;b",
            "a\nb",
            "a&",
            "a $x",
            "a `b`",
            "a \"$x\"",
            "a *",
            "a ?",
            "a [b]",
            "a {b,c}",
            "a ~",
            "a #b",
            "a \\b",
            "a 'b",
            "a \"b",
            "X=1 a",
            "cd /",
            "echo -n x",
            "exit 3",
            "time a",
            "if x",
            "./a",
            "/bin/a",
            "'' a",
            "! a",
        ] {
            assert_eq!(text(line), None, "{line:?}");
        }
    }
}
