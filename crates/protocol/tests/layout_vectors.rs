//! The worked examples of `bucket-layout.md`, which were made by another program from the text alone.

use brigade_protocol::assignment::{Draw, SequenceId, samples_digest, sequences, shards};
use brigade_protocol::{Digest, Envelope, Evaluation, Parameters, PeerId, SigningKey, TensorSpec};

#[test]
fn the_signed_envelope() {
    let evaluation = Evaluation {
        run: Digest([1; 32]),
        window: 7,
        state_root: Digest([2; 32]),
        heldout_loss: 3.5,
        bits_per_byte: 1.25,
        tokens: 8192,
    };
    let (envelope, signed) = Envelope::sign(evaluation, &SigningKey::from_seed(&[1; 32])).unwrap();
    assert_eq!(signed.digest.to_string(), "1f0f815a4508cf333dfe8db535179c0d338ef2d73cdac992f641167d335880f7");
    let text = String::from_utf8(envelope.to_bytes()).unwrap();
    let sig = "8QxVDzkyX3Ei3gq+i4yJDqFSlo07X5wv/Thb5nBirdtsswYoJQ5VOBuGyDCdIxKmWuL0E2cvDLA+gIHT6Id6DQ==";
    assert!(text.contains(sig), "{text}");
}

#[test]
fn the_assignment() {
    let (run, previous, seed) = (Digest([1; 32]), Digest([2; 32]), Digest([3; 32]));
    let sizes = [100, 100, 100, 100, 37];
    let peer = Draw::Assigned(PeerId([4; 32]));
    let drawn = shards(&run, &previous, peer, &sizes, 2);
    assert_eq!(drawn, [1, 3]);
    let ids = sequences(&run, &seed, peer, &sizes, &drawn, 6);
    let expected = [(3, 90), (1, 59), (3, 32), (3, 0), (3, 28), (1, 43)];
    assert_eq!(ids, expected.map(|(shard, index)| SequenceId { shard, index }));
    assert_eq!(
        samples_digest(&ids).to_string(),
        "98349ed72d75e9dc588dfe7fc2a16e67aba3e4a7293a0fd10ac86254560f513d"
    );
    let drawn = shards(&run, &previous, Draw::Unassigned, &sizes, 2);
    assert_eq!(drawn, [3, 1]);
    let ids = sequences(&run, &seed, Draw::Unassigned, &sizes, &drawn, 3);
    assert_eq!(ids, [(1, 12), (3, 33), (1, 20)].map(|(shard, index)| SequenceId { shard, index }));
}

#[test]
fn the_state_root() {
    let specs = vec![
        TensorSpec { name: "w".into(), shape: vec![2, 3] },
        TensorSpec { name: "b".into(), shape: vec![2] },
    ];
    let theta = Parameters::new(specs, vec![vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0], vec![1.0, -0.0]]).unwrap();
    assert_eq!(theta.root().to_string(), "6131fbce2ed3c4f8a1b34321e6fb8500c67c07a5c27e4badac9b5244bbf0c820");
}
