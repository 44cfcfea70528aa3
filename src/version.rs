//! Which program this is: what `brigade --version` says, and what a bug report needs.

use std::sync::LazyLock;

use brigade_protocol::FORMAT_VERSION;

/// The commit that this was built from, 12 digits, with `-dirty` where what is built differed from it; `unknown` where
/// nobody could tell.
pub const COMMIT: &str = env!("BRIGADE_BUILT_COMMIT");

/// The platform that this was built for.
pub const TARGET: &str = env!("BRIGADE_BUILT_TARGET");

/// The version with all that it depends on, one `name: value` a line after the first.
pub fn long() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        format!(
            "{}\ncommit: {COMMIT}\nlibtorch: {}\ntarget: {TARGET}\nformat: {FORMAT_VERSION}",
            env!("CARGO_PKG_VERSION"),
            libtorch()
        )
    });
    &TEXT
}

/// The libtorch that the program has found, which need not be the one that it was built with.
#[cfg(feature = "torch")]
fn libtorch() -> String {
    match brigade_trainer::version() {
        Ok(version) => match version.cuda {
            Some(cuda) => format!("{}, CUDA {cuda}", version.libtorch),
            None => format!("{}, without CUDA", version.libtorch),
        },
        // An answer all the same: whoever asks for the version has trouble already.
        Err(error) => format!("unknown ({error})"),
    }
}

#[cfg(not(feature = "torch"))]
fn libtorch() -> String {
    "without libtorch".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_a_report_of_a_fault_needs() {
        let lines: Vec<_> = long().lines().collect();
        assert_eq!(lines[0], env!("CARGO_PKG_VERSION"));
        for (line, name) in lines[1..].iter().zip(["commit", "libtorch", "target", "format"]) {
            let value = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(": "));
            assert!(value.is_some_and(|value| !value.trim().is_empty()), "{line}");
        }
        assert_eq!(lines.len(), 5);
        let libtorch = lines[2];
        assert_eq!(libtorch.contains("without libtorch"), !cfg!(feature = "torch"), "{libtorch}");
    }
}
