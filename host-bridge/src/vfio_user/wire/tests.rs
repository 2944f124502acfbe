//! Golden bytes, written by hand from the protocol's text, for each message; and chains that lie.

use super::*;
use proptest::prelude::*;

/// A whole message: header and payload.
fn message(header: Header, payload: &[&[u8]]) -> Vec<u8> {
    let mut bytes = header.as_bytes().to_vec();
    payload.iter().for_each(|part| bytes.extend_from_slice(part));
    assert_eq!(bytes.len(), header.size.get() as usize, "the size counts the header");
    bytes
}

#[test]
fn version_is_two_numbers_and_a_text() {
    let version = Version { major: U16::new(0), minor: U16::new(1) };
    let text = Capabilities { max_msg_fds: 8, max_data_xfer_size: 4096 }.to_bytes();
    let header = Header::command(0x1234, Command::VERSION, 4 + text.len());
    let mut golden = vec![0x34, 0x12, 1, 0, 20 + 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    golden.extend_from_slice(&[0, 0, 1, 0]);
    golden
        .extend_from_slice(b"{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":4096}}\0");
    golden[4] = u8::try_from(golden.len()).expect("short");
    assert_eq!(message(header, &[version.as_bytes(), &text]), golden);
}

#[test]
fn dma_map_and_unmap_are_forty_eight_and_forty_bytes() {
    let map = DmaMap {
        argsz: U32::new(32),
        flags: U32::new(DmaMap::FLAG_READ | DmaMap::FLAG_WRITE),
        offset: U64::new(0x20_0000),
        address: U64::new(0x40_1122_3344),
        size: U64::new(0x0120_0000),
    };
    let golden = [
        7, 0, 2, 0, 48, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // header
        32, 0, 0, 0, 3, 0, 0, 0, // argsz, flags
        0, 0, 0x20, 0, 0, 0, 0, 0, // offset
        0x44, 0x33, 0x22, 0x11, 0x40, 0, 0, 0, // address
        0, 0, 0x20, 0x01, 0, 0, 0, 0, // size
    ];
    assert_eq!(message(Header::command(7, Command::DMA_MAP, 32), &[map.as_bytes()]), golden);
    let unmap = DmaUnmap {
        argsz: U32::new(24),
        flags: U32::ZERO,
        address: U64::new(0x40_1122_3344),
        size: U64::new(0x0120_0000),
    };
    let golden = [
        8, 0, 3, 0, 40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // header
        24, 0, 0, 0, 0, 0, 0, 0, // argsz, flags
        0x44, 0x33, 0x22, 0x11, 0x40, 0, 0, 0, // address
        0, 0, 0x20, 0x01, 0, 0, 0, 0, // size
    ];
    assert_eq!(message(Header::command(8, Command::DMA_UNMAP, 24), &[unmap.as_bytes()]), golden);
}

#[test]
fn device_and_irq_info_are_four_words() {
    let info = DeviceInfo {
        argsz: U32::new(16),
        flags: U32::new(DeviceInfo::FLAG_PCI | DeviceInfo::FLAG_RESET),
        num_regions: U32::new(REGIONS),
        num_irqs: U32::new(IRQS),
    };
    let request = Header::command(2, Command::DEVICE_GET_INFO, 16);
    let golden = [
        2, 0, 4, 0, 32, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, // header of the reply
        16, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0,
    ];
    assert_eq!(message(request.reply(16), &[info.as_bytes()]), golden);
    let irq = IrqInfo {
        argsz: U32::new(16),
        flags: U32::new(9),
        index: U32::new(IRQ_MSIX),
        count: U32::new(65),
    };
    let request = Header::command(3, Command::DEVICE_GET_IRQ_INFO, 16);
    let golden = [
        3, 0, 7, 0, 32, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, // header of the reply
        16, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0, 0, 65, 0, 0, 0,
    ];
    assert_eq!(message(request.reply(16), &[irq.as_bytes()]), golden);
    let off = SetIrqs {
        argsz: U32::new(20),
        flags: U32::new(0x21),
        index: U32::new(IRQ_MSIX),
        start: U32::ZERO,
        count: U32::ZERO,
    };
    let golden = [
        4, 0, 8, 0, 36, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // header
        20, 0, 0, 0, 0x21, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let request = Header::command(4, Command::DEVICE_SET_IRQS, 20);
    assert_eq!(message(request, &[off.as_bytes()]), golden);
}

/// BAR0 of 16 KiB with one area at 1000h.
const BAR0: [u8; 64] = [
    64, 0, 0, 0, 0xf, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, // argsz, flags, index, cap_offset
    0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // size, offset
    1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, // sparse mmap: id, version, next, areas
    0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, // area: offset, size
];

#[test]
fn region_info_carries_its_sparse_areas() {
    let info = RegionInfo::read_from_prefix(&BAR0).expect("32 bytes").0;
    assert_eq!((info.index.get(), info.size.get(), info.offset.get()), (REGION_BAR0, 0x4000, 0));
    let areas = sparse_areas(&info, &BAR0).expect("a sound chain");
    assert_eq!(areas, [SparseArea { offset: U64::new(0x1000), size: U64::new(0x2000) }]);
    let built = [
        info.as_bytes(),
        SparseMmap {
            header: CapHeader {
                id: U16::new(CAP_SPARSE_MMAP),
                version: U16::new(1),
                next: U32::ZERO,
            },
            areas: U32::new(1),
            reserved: U32::ZERO,
        }
        .as_bytes(),
        areas[0].as_bytes(),
    ]
    .concat();
    assert_eq!(built, BAR0);
}

#[test]
fn region_access_is_sixteen_bytes_and_the_data() {
    let access =
        RegionAccess { offset: U64::new(0x14), region: U32::new(REGION_BAR0), count: U32::new(4) };
    let golden = [
        5, 0, 9, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // header
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0,
    ];
    let read = Header::command(5, Command::REGION_READ, 16);
    assert_eq!(message(read, &[access.as_bytes()]), golden);
    let access = RegionAccess { region: U32::new(REGION_CONFIG), offset: U64::new(4), ..access };
    let golden = [
        6, 0, 10, 0, 36, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // header
        4, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 4, 0, 0, 0, // access
        6, 4, 0, 0, // data
    ];
    let write = Header::command(6, Command::REGION_WRITE, 20);
    assert_eq!(message(write, &[access.as_bytes(), &[6, 4, 0, 0]]), golden);
}

#[test]
fn reset_has_no_payload_and_an_error_carries_its_errno() {
    let reset = Header::command(9, Command::DEVICE_RESET, 0);
    let golden = [9, 0, 13, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(message(reset, &[]), golden);
    let golden = [9, 0, 13, 0, 16, 0, 0, 0, 0x21, 0, 0, 0, 22, 0, 0, 0];
    assert_eq!(message(reset.failure(22), &[]), golden);
    assert!(reset.is_command() && reset.failure(22).is_reply() && reset.reply(0).is_reply());
    assert_eq!(Command::DEVICE_RESET.to_string(), "DEVICE_RESET");
    assert_eq!(Command(0).to_string(), "command 0");
    assert_eq!(Command(99).to_string(), "command 99");
}

#[test]
fn chains_that_leave_the_message_or_go_back_are_refused() {
    let info = |bytes: &[u8]| RegionInfo::read_from_prefix(bytes).expect("32 bytes").0;
    let change = |at: usize, to: u8| {
        let mut bytes = BAR0;
        bytes[at] = to;
        sparse_areas(&info(&bytes), &bytes)
    };
    assert_eq!(change(12, 16), Err(CapError::Outside { at: 16, len: 64 }));
    assert_eq!(change(12, 64), Err(CapError::Outside { at: 64, len: 64 }));
    assert_eq!(change(12, 200), Err(CapError::Outside { at: 200, len: 64 }));
    assert_eq!(change(40, 2), Err(CapError::Areas { areas: 2, len: 64 }));
    assert_eq!(change(43, 0xff), Err(CapError::Areas { areas: 0xff00_0001, len: 64 }));
    let mut bytes = BAR0;
    // An unknown capability that points at itself, before itself, behind the end.
    bytes[32] = 9;
    for (next, error) in [
        (32, CapError::Backwards { at: 32, next: 32 }),
        (4, CapError::Backwards { at: 32, next: 4 }),
        (99, CapError::Outside { at: 99, len: 64 }),
    ] {
        bytes[36] = next;
        assert_eq!(sparse_areas(&info(&bytes), &bytes), Err(error));
    }
    assert_eq!(change(32, 9), Ok(Vec::new()), "an unknown one alone");
    assert_eq!(change(4, 0x7), Ok(Vec::new()), "none without the flag");
}

#[test]
fn capabilities_are_read_from_what_servers_send() {
    let read = |text: &str| Capabilities::parse(text.as_bytes());
    let said =
        |max_msg_fds, max_data_xfer_size| Some(Capabilities { max_msg_fds, max_data_xfer_size });
    let theirs = "{ \"capabilities\": { \"max_msg_fds\": 8, \"max_data_xfer_size\": 1048576, \
                  \"migration\": { \"pgsize\": 4096 } } }\0";
    assert_eq!(read(theirs), said(8, 1 << 20));
    assert_eq!(read(""), said(1, 1 << 20));
    assert_eq!(read("{}\0"), said(1, 1 << 20));
    for bad in [
        "{}",
        "\0",
        "[]\0",
        "{\"capabilities\":3}\0",
        "{\"capabilities\":{\"max_msg_fds\":-1}}\0",
        "{\"capabilities\":{\"max_msg_fds\":\"8\"}}\0",
        "{\"capabilities\":{\0",
    ] {
        assert_eq!(read(bad), None, "{bad:?}");
    }
    assert_eq!(read(&format!("{}\0", "[".repeat(4000))), None);
    assert_eq!(read(&" ".repeat(5000)), None);
    let ours = Capabilities { max_msg_fds: 3, max_data_xfer_size: 4096 };
    assert_eq!(Capabilities::parse(&ours.to_bytes()), Some(ours));
}

proptest! {
    #[test]
    fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Capabilities::parse(&bytes);
        if let Ok((info, _)) = RegionInfo::read_from_prefix(&bytes) {
            let _ = sparse_areas(&info, &bytes);
        }
    }
}
