//! The way past the sockets, over a backend that needs no GPU, against the sockets.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, mpsc};

use brigade_codec::{Binding, CodeBits, CodecConfig, Layout};
use brigade_torch_ext::Transport;
use tch::{Device, Kind, Tensor};

use super::group_tests::{groups, on_all};
use super::serve::serve;
use super::tests::{batch, config, model, parameters};
use super::{Command, Group};
use crate::{ComputeDtype, Error, MuonConfig, OptimizerConfig, Trainer, TrainerConfig};

fn connect(group: &Group) {
    group.connect(Transport::File, Device::Cpu).unwrap();
}

/// The bits of what each rank gathers and sums, some of it begun early and some given up.
fn work(group: &Arc<Group>, kind: Kind) -> Vec<u8> {
    let random = |n: i64, seed: i64| {
        let values = Tensor::arange(n, (Kind::Float, Device::Cpu)) * (seed + 7 * group.rank() as i64 + 1);
        values.sin().to_kind(kind)
    };
    let mut bits = Vec::new();
    for step in 0..3 {
        let gathering = group.all_gather(&random(5, step)).unwrap();
        let reducing = group.reduce_scatter(&random(3 * 7, 100 + step)).unwrap();
        drop(group.all_gather(&random(4, step)).unwrap());
        drop(group.reduce_scatter(&random(6, step)).unwrap());
        for tensor in [reducing.wait().unwrap(), gathering.wait().unwrap()] {
            bits.extend(super::to_bytes(&tensor).unwrap());
        }
        group.sum(&[1.0]).unwrap();
    }
    bits
}

#[test]
fn it_gives_the_bits_that_the_sockets_give() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let sockets = on_all(3, |group| work(&group, kind));
        let direct = on_all(3, |group| {
            connect(&group);
            assert!(group.connect(Transport::File, Device::Cpu).is_err(), "once");
            let bits = work(&group, kind);
            assert_eq!(group.untaken(), 0, "nothing went over the sockets");
            bits
        });
        assert!(sockets == direct);
    }
}

/// Three steps and an update on `ranks` ranks: losses, parameters, the optimiser's state, the file.
fn train(
    ranks: usize,
    config: &TrainerConfig,
    is_direct: bool,
) -> (Vec<f32>, Vec<Vec<f32>>, Vec<u8>, Vec<u8>) {
    let theta = parameters(&config.model);
    let layout = Layout::new(config.model.tensors().into_iter().map(|t| (t.name, t.shape))).unwrap();
    let binding = Binding { run: [1; 32], window: 2, peer: [3; 32], start_state_root: [4; 32] };
    let codec = CodecConfig { top_k: 64, bits: CodeBits::Two, error_feedback_decay: 0.95 };
    let mut groups = groups(ranks).into_iter();
    let group = groups.next().unwrap();
    let ready = move |group: &Group| is_direct.then(|| connect(group));
    std::thread::scope(|scope| {
        let serve = |group: Arc<Group>| {
            ready(&group);
            serve(&group)
        };
        let others: Vec<_> = groups.map(|group| scope.spawn(move || serve(group))).collect();
        ready(&group);
        group.broadcast(Some(serde_json::to_vec(config).unwrap())).unwrap();
        let mut trainer = Trainer::with_group(config.clone(), group).unwrap();
        trainer.load_parameters(&theta).unwrap();
        let losses = (0..3).map(|step| trainer.inner_step(&batch(step, 6), 1e-3).unwrap().loss).collect();
        let file = trainer.compress(&layout, &binding, &codec, &theta, &mut theta.clone()).unwrap();
        let outcome = (losses, trainer.parameters().unwrap(), trainer.save_optimizer().unwrap(), file);
        trainer.lead(|| Command::End).unwrap();
        for other in others {
            other.join().unwrap().unwrap();
        }
        outcome
    })
}

#[test]
fn a_model_trains_to_the_same_bits() {
    for optimizer in [OptimizerConfig::default(), OptimizerConfig::Muon(MuonConfig::default())] {
        let config = TrainerConfig { optimizer, ..config(model(true), ComputeDtype::Float32) };
        for ranks in [2, 3] {
            assert!(train(ranks, &config, true) == train(ranks, &config, false), "{ranks} ranks");
        }
    }
}

#[test]
fn who_waits_for_a_rank_that_is_lost_is_let_go_and_told_which() {
    let (gone, is_gone) = mpsc::channel::<()>();
    let (gone, is_gone) = (std::sync::Mutex::new(Some(gone)), std::sync::Mutex::new(is_gone));
    let errors = on_all(3, |group| {
        connect(&group);
        if group.rank() == 2 {
            // Not before the others wait for it.
            let _ = is_gone.lock().unwrap().recv();
            return None;
        }
        let gathering = group.all_gather(&Tensor::from_slice(&[1.0_f32])).unwrap();
        if group.rank() == 0 {
            let gone = gone.lock().unwrap().take();
            std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(100));
                drop(gone);
            });
        }
        let waited = gathering.wait().unwrap_err();
        // Whatever comes next says the same, and so do numbers that would be read.
        let [checked, started] =
            [group.check().unwrap_err(), group.fail_of(Error::Setting { field: "x", value: 0.0, must: "y" })];
        assert!(group.sum(&[]).is_err());
        Some([waited, checked, started])
    });
    for error in errors.into_iter().flatten().flatten() {
        assert!(matches!(error, Error::Rank { rank: 2, .. }), "{error}");
    }
}

#[test]
fn a_rank_that_is_lost_before_all_are_connected_is_named() {
    let errors = on_all(2, |group| {
        if group.rank() == 1 {
            // It comes so far as to know where they meet.
            group.broadcast(None).unwrap();
            group.sum(&[]).unwrap();
            return None;
        }
        Some(group.connect(Transport::File, Device::Cpu).unwrap_err())
    });
    assert!(matches!(errors[0], Some(Error::Rank { rank: 1, .. })), "{errors:?}");
}

#[test]
fn who_cannot_connect_is_told_what_to_do() {
    if cfg!(feature = "cuda") && tch::Cuda::device_count() > 1 {
        return;
    }
    let errors = on_all(2, |group| {
        let error = group.connect(Transport::Nccl, Device::Cuda(group.rank())).unwrap_err();
        // So that both have their own reason.
        group.sum(&[]).unwrap();
        error.to_string()
    });
    for error in errors {
        assert!(error.contains("exchange = \"host\""), "{error}");
    }
}
