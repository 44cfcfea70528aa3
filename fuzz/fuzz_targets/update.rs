//! A peer's update, as the aggregator and every validator reads it.
#![no_main]

use brigade_codec::{Update, max_update_bytes};
use brigade_fuzz::input::{self, BINDING, Kind, UPDATES};
use brigade_fuzz::{check, stay_on_this_thread};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: stay_on_this_thread(), |input: &[u8]| {
    let Some((setting, file)) = input::file(Kind::Update, &UPDATES, input) else { return };
    let config = setting.config();
    let parse = |bytes| Update::parse(bytes, &setting.layout, &config, &BINDING);
    match parse(file.bytes.clone()) {
        Ok(update) => {
            check::update(setting, &file, &update);
            let mut others = input::neighbours(Kind::Update, setting, &file.bytes).into_iter();
            assert!(others.all(|other| parse(other).is_err()), "the same in other bytes");
        }
        Err(error) => check::refused(setting, &file, &error, max_update_bytes(&setting.layout, &config)),
    }
});
