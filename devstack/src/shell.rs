//! Texts for a shell.

/// Quotes a text so that a shell takes it as one word.
pub(crate) fn shell_quoted(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/:.,_-+=@%".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        text.into()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_shell_reads_back_the_text_that_was_quoted() {
        for text in ["/home/ada/payments", "/Users/ada/My Projects/it's $HOME", "", "a\nb", "`id`;\"&"] {
            let echo = format!("printf %s {}", shell_quoted(text));
            let output = Command::new("sh").args(["-c", &echo]).output().expect("a shell");
            assert_eq!(output.stdout, text.as_bytes(), "{echo}");
        }
        assert_eq!(shell_quoted("https://127.0.0.1:8080/v1"), "https://127.0.0.1:8080/v1");
    }
}
