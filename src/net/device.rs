//! What is known of an interface outside rtnetlink.

use std::fs;
use std::path::Path;

use super::snapshot::Link;
use crate::Mac;

/// The name of an interface's driver; of a virtual interface, its kind.
pub(crate) fn driver(link: &Link) -> Option<String> {
    of_device(link).or_else(|| link.kind.clone())
}

/// How strictly IPv4 sources are checked on the interface: 0 not, 1 strictly,
/// 2 loosely. The larger of its own setting and that for all counts
/// (ip-sysctl, `rp_filter`).
pub(crate) fn rp_filter(name: &str) -> Option<u8> {
    let setting = |name: &str| -> Option<u8> {
        let path = Path::new("/proc/sys/net/ipv4/conf").join(name).join("rp_filter");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    Some(setting("all")?.max(setting(name)?))
}

fn of_device(link: &Link) -> Option<String> {
    let path = Path::new("/sys/class/net").join(&link.name);
    let attribute = |name| fs::read_to_string(path.join(name)).ok();
    // sysfs shows the namespace that it was mounted in, maybe another one.
    let index: u32 = attribute("ifindex")?.trim().parse().ok()?;
    let mac: Mac = attribute("address")?.trim().parse().ok()?;
    if index != link.index || mac != link.mac {
        return None;
    }
    let driver = fs::read_link(path.join("device/driver")).ok()?;
    Some(driver.file_name()?.to_string_lossy().into_owned())
}
