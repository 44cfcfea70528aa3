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
