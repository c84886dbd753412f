//! VLANs for a host without 802.1Q devices: what the control plane would write for
//! them is written into the pinned maps.

use std::ops::RangeBounds;
use std::path::Path;

use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;

/// Gives the ways out of these services' destinations a tag, as those by a VLAN
/// have.
pub fn tag_ways_out(pins: &Path, services: impl RangeBounds<u16>, id: u16) {
    let records = open(pins, "destinations");
    let tunnels = open(pins, "tunnels");
    // In the words of both MAC addresses.
    let tag = |record: &mut [u8]| {
        for at in [46, 54] {
            record[at..at + 2].copy_from_slice(&id.to_be_bytes());
        }
    };
    for slot in 1..records.max_entries() {
        let mut record = read(&records, slot);
        let port = u16::from_be_bytes([record[24], record[25]]);
        let is_used = record[4..8] != [0; 4];
        if is_used && services.contains(&port) {
            tag(&mut record);
            write(&records, slot, &record);
            // Not 0: it has a tunnel, with four ways.
            for way in (4 * slot..4 * slot + 4).filter(|_| record[27] != 0) {
                let mut record = read(&tunnels, way);
                tag(&mut record);
                write(&tunnels, way, &record);
            }
        }
    }
}

/// Makes the program take the host for one that is in every VLAN, until the
/// control plane follows a change of the network.
pub fn join_all_vlans(pins: &Path) {
    let gate = open(pins, "gate");
    let mut record = read(&gate, 0);
    // They come last, but for eight indices and the first NAT addresses.
    let vlans = record.len() - 24 - 32 - 512;
    record[vlans..][..512].fill(0xff);
    write(&gate, 0, &record);
}

fn open(pins: &Path, name: &str) -> MapHandle {
    MapHandle::from_pinned_path(pins.join(name)).expect("the map is pinned by its name")
}

fn read(map: &MapHandle, index: u32) -> Vec<u8> {
    let record = map.lookup(&index.to_ne_bytes(), MapFlags::ANY).expect("a lookup");
    record.expect("the index is within the array")
}

fn write(map: &MapHandle, index: u32, record: &[u8]) {
    map.update(&index.to_ne_bytes(), record, MapFlags::EXIST).expect("the entry is there");
}
