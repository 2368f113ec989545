//! The command line of the coding agent. Prompt and flags are words of it, so
//! there is no shell that could read them otherwise.

/// What the model is told of where it works.
const SURROUNDINGS: &str = "You work inside an isol8 sandbox: a container that exists for this task \
    alone. Memory, processes, disk and time are limited. The network reaches only the hosts that the \
    caller has allowed, through the proxy that is set in the environment; some system calls are not \
    available. The directory you start in is yours, and nothing outlives the sandbox but what the \
    caller takes out of it. Stay within these bounds: do not try to get around them, and if a task \
    needs more, say so.";

/// Runs the agent once on `prompt`; `flags` come before it.
pub(super) fn command(prompt: &str, flags: &[String]) -> Vec<String> {
    // A prompt is a text, even if it begins like an option or like the name of a file to read.
    let is_plain = !prompt.starts_with(['-', '@']);
    let prompt = if is_plain { prompt.to_owned() } else { format!(" {prompt}") };
    let mut argv: Vec<String> =
        ["pi", "--no-session", "--append-system-prompt", SURROUNDINGS].map(String::from).into();
    argv.extend_from_slice(flags);
    argv.extend(["-p".to_owned(), prompt]);
    argv
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_before_the_prompt_and_nothing_is_read_twice() {
        let prompt = "say 'hi'; $(reboot)";
        let plain = command(prompt, &[]);
        assert_eq!(plain[..3], ["pi", "--no-session", "--append-system-prompt"]);
        assert_eq!(plain[4..], ["-p", prompt]);
        let flags = ["--model".to_owned(), "a b".to_owned()];
        assert_eq!(command(prompt, &flags)[4..], ["--model", "a b", "-p", prompt]);
        for prompt in ["- one\n- two", "@everyone"] {
            assert_eq!(command(prompt, &[])[5], format!(" {prompt}"));
        }
    }
}
