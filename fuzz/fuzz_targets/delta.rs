//! The merged delta, as every peer reads and applies it.
#![no_main]

use brigade_codec::{Delta, max_delta_bytes};
use brigade_fuzz::input::{self, DELTA_BINDING, DELTAS, Kind};
use brigade_fuzz::{check, stay_on_this_thread};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: stay_on_this_thread(), |input: &[u8]| {
    let Some((setting, file)) = input::file(Kind::Delta, &DELTAS, input) else { return };
    let config = setting.delta_config();
    let parse = |bytes| Delta::parse(bytes, &setting.layout, &config, &DELTA_BINDING);
    match parse(file.bytes.clone()) {
        Ok(delta) => {
            check::delta(&file, &delta);
            let mut others = input::neighbours(Kind::Delta, setting, &file.bytes).into_iter();
            assert!(others.all(|other| parse(other).is_err()), "the same in other bytes");
        }
        Err(error) => check::refused(setting, &file, &error, max_delta_bytes(&setting.layout, &config)),
    }
});
