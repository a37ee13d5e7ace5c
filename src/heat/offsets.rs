//! The fields that the probe takes, and where this kernel has them.

use super::btf::Btf;

/// The probe's globals, and the structure and field each is the place of.
const FIELDS: [(&str, (&str, &str)); 9] = [
    ("MAPPING_HOST", ("address_space", "host")),
    ("INODE_NUMBER", ("inode", "i_ino")),
    ("INODE_SUPER", ("inode", "i_sb")),
    ("INODE_GENERATION", ("inode", "i_generation")),
    ("SUPER_DEVICE", ("super_block", "s_dev")),
    ("IOCB_FILE", ("kiocb", "ki_filp")),
    ("FILE_INODE", ("file", "f_inode")),
    ("FAULT_AREA", ("vm_fault", "vma")),
    ("AREA_FILE", ("vm_area_struct", "vm_file")),
];

/// Global and offset, bytes.
pub(super) type Offsets = Vec<(&'static str, u64)>;

/// Where a kernel that describes itself so has the fields.
pub(super) fn of(description: &[u8]) -> Result<Offsets, String> {
    let btf = Btf::parse(description).ok_or("it is no BTF, or cut short")?;
    let found = btf.offsets(&FIELDS.map(|(_, field)| field));
    let offset = |(global, field): (&'static str, (&str, &str))| match found.get(&field) {
        Some(offset) => Ok((global, *offset)),
        None => Err(format!("it has no field {} in struct {}", field.1, field.0)),
    };
    FIELDS.into_iter().map(offset).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_describes_all_fields() {
        let Ok(description) = std::fs::read(super::super::btf::KERNEL) else { return };
        let offsets = of(&description).unwrap();
        assert_eq!(offsets.len(), FIELDS.len());
        // The first member of every kernel's address_space.
        assert_eq!(offsets[0], ("MAPPING_HOST", 0));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(of(b"nonsense").unwrap_err().contains("no BTF"));
        let empty =
            [0x9f_u8, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(of(&empty).unwrap_err().contains("no field host in struct address_space"));
    }
}
