//! What the controller says of itself and of its namespaces, against what the driver makes of it.

use nvme_driver::{ControllerConfig, IoError};
use nvme_spec::{IdentifyNamespace, Nsid, fixed_text};
use zerocopy::FromBytes;

use super::cx::Cx;
use super::{Case, Outcome, Skip, reads};

pub(super) const CASES: &[Case] = &[
    reads("identify::the_controller_has_a_name_and_limits", controller),
    reads("identify::namespaces_are_in_order_and_as_their_data_say", namespaces),
    reads("identify::numbers_between_namespaces_are_no_namespaces", holes),
    reads("identify::what_cannot_be_used_is_refused_by_name", refused_by_name),
    reads("identify::namespaces_without_a_place_are_counted", without_a_place),
];

fn controller(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    let id = rig.controller.identify();
    let text = |bytes: &[u8]| fixed_text(bytes).trim().to_owned();
    assert!(!text(&id.mn).is_empty(), "a model number");
    assert!(!text(&id.sn).is_empty(), "a serial number");
    assert!(text(&id.mn).chars().all(|c| c.is_ascii_graphic() || c == ' '), "ASCII");
    assert_eq!(rig.controller.identify_bytes()[..2], id.vid.get().to_le_bytes());
    assert!(id.nn.get() >= 1, "NN is 0");
    if id.ver.get() != 0 {
        assert_eq!(id.ver.get(), rig.controller.version().into_bits(), "VER and VS differ");
    }
    rig.finish();
    Ok(())
}

fn namespaces(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    cx.spaces(&rig)?;
    let id = rig.controller.identify();
    let unit = u64::from(rig.controller.capabilities().min_page_bytes());
    let mdts = if id.mdts == 0 { u64::MAX } else { unit.saturating_mul(1 << id.mdts.min(40)) };
    let mut last = 0;
    for ns in rig.controller.namespaces() {
        let nsid = ns.nsid().0;
        assert!(nsid > last, "namespace {nsid} comes after {last}");
        last = nsid;
        let bytes = ns.identify_bytes();
        let said = IdentifyNamespace::read_from_bytes(&bytes[..]).expect("4,096 bytes");
        assert_eq!(ns.blocks(), said.nsze.get(), "namespace {nsid}");
        assert!(said.ncap.get() <= said.nsze.get(), "namespace {nsid}: NCAP is above NSZE");
        assert!(ns.lba_bytes().is_power_of_two() && ns.lba_bytes() >= 512, "namespace {nsid}");
        let most = u64::from(ns.max_transfer_bytes());
        assert!(most >= u64::from(ns.lba_bytes()) && most <= mdts, "namespace {nsid}: {most}");
        assert_eq!(most % u64::from(ns.lba_bytes()), 0, "namespace {nsid}");
        assert_eq!(rig.controller.namespace(ns.nsid()).map(|n| n.nsid()), Some(ns.nsid()));
    }
    assert!(last <= id.nn.get(), "namespace {last} is above NN {}", id.nn.get());
    rig.finish();
    Ok(())
}

fn holes(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    let all: Vec<u32> = rig.controller.all_namespaces().map(|ns| ns.nsid().0).collect();
    let highest = all.iter().max().copied().unwrap_or(0);
    let absent = |nsid: u32| {
        assert!(rig.controller.namespace(Nsid(nsid)).is_none(), "namespace {nsid} is not there");
    };
    [0, highest.saturating_add(1), u32::MAX].into_iter().for_each(absent);
    let hole = (1..highest).find(|nsid| !all.contains(nsid));
    hole.into_iter().for_each(absent);
    rig.finish();
    match hole {
        Some(_) => Ok(()),
        None => Err(Skip("its namespaces are numbered without a hole".to_owned())),
    }
}

fn refused_by_name(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    let refused: Vec<_> =
        rig.controller.all_namespaces().filter(|ns| ns.refusal().is_some()).collect();
    assert_eq!(rig.controller.stats().namespaces_refused, refused.len() as u64);
    for ns in &refused {
        let why = ns.refusal().map(|refusal| refusal.to_string()).unwrap_or_default();
        assert!(!why.is_empty(), "namespace {} is refused without a reason", ns.nsid().0);
        assert!(rig.controller.namespace(ns.nsid()).is_none());
        assert_eq!((ns.blocks(), ns.lba_bytes(), ns.max_transfer_bytes()), (0, 0, 0));
        assert!(matches!(ns.target(), Err(IoError::NamespaceChanged(_))));
        let error = super::cx::refused(rig.run(ns.read(nvme_spec::Lba(0), rig.filled(4096, 1))));
        assert_eq!(error, IoError::NamespaceChanged(ns.nsid()));
    }
    rig.finish();
    match refused.is_empty() {
        false => Ok(()),
        true => Err(Skip("it has no namespace that must be refused".to_owned())),
    }
}

fn without_a_place(cx: &Cx<'_>) -> Outcome {
    let all = cx.rig().controller.all_namespaces().count() as u64;
    let rig = cx.rig_with(ControllerConfig { max_namespaces: 1, ..ControllerConfig::default() });
    assert_eq!(rig.controller.all_namespaces().count(), 1);
    assert_eq!(rig.controller.stats().namespaces_beyond, all - 1);
    rig.finish();
    match all {
        1 => Err(Skip("it has one namespace".to_owned())),
        _ => Ok(()),
    }
}
