//! Converts values from one layout to another, by the names of fields and enumerators.
//!
//! A field without a counterpart in the new layout is dropped; one without a counterpart in the old
//! layout is zero, which is the value that an earlier agent meant by not having it. A field that cannot
//! be carried over (another size, an enumerator that is gone) is refused: guessing is worse than not upgrading.

use std::ops::Range;

use super::btf::Shape;

/// Types that belong to the kernel: their memory is not ours to copy.
const OPAQUE: [&str; 2] = ["bpf_spin_lock", "bpf_timer"];
/// Fields that are always zero, whatever their size.
const RESERVED: &str = "reserved";

/// The steps by which values of one type become values of another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conversion {
    from: usize,
    to: usize,
    steps: Vec<Step>,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Bytes, and their offset in the new value.
    Copy(Range<usize>, usize),
    /// An enumerator, with the numbers of those that both layouts have.
    Translate {
        name: String,
        from: usize,
        to: usize,
        size: usize,
        numbers: Vec<(u32, u32)>,
    },
}

impl Conversion {
    /// Makes the conversion between two types, or says why there is none.
    pub(super) fn new(from: &Shape, to: &Shape) -> Result<Self, String> {
        let mut conversion = Self {
            from: from.size(),
            to: to.size(),
            steps: Vec::new(),
        };
        conversion.add("the value", (from, 0), (to, 0))?;
        let within = conversion.steps.iter().all(|step| {
            let (from, to, size) = match step {
                Step::Copy(from, to) => (from.start, *to, from.len()),
                Step::Translate { from, to, size, .. } => (*from, *to, *size),
            };
            from + size <= conversion.from && to + size <= conversion.to
        });
        if within {
            return Ok(conversion);
        }
        Err("a field beyond the end of its type".to_owned())
    }

    /// Converts one value.
    pub(super) fn convert(&self, old: &[u8]) -> Result<Vec<u8>, String> {
        let mut new = vec![0; self.to];
        self.convert_onto(old, &mut new)?;
        Ok(new)
    }

    /// Converts one value onto another of the new type, which keeps the fields that the old one does not have.
    pub(super) fn convert_onto(&self, old: &[u8], new: &mut [u8]) -> Result<(), String> {
        if old.len() < self.from || new.len() < self.to {
            return Err("a value that is too short".to_owned());
        }
        for step in &self.steps {
            match step {
                Step::Copy(from, to) => {
                    new[*to..*to + from.len()].copy_from_slice(&old[from.clone()]);
                }
                Step::Translate {
                    name,
                    from,
                    to,
                    size,
                    numbers,
                } => {
                    let was = read(&old[*from..*from + *size]);
                    let found = numbers.iter().find(|(old, _)| *old == was);
                    let (_, is) =
                        found.ok_or_else(|| format!("{name} is {was}, which is unknown here"))?;
                    new[*to..*to + *size].copy_from_slice(&is.to_ne_bytes()[low(*size)]);
                }
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        name: &str,
        (from, from_at): (&Shape, usize),
        (to, to_at): (&Shape, usize),
    ) -> Result<(), String> {
        match (from, to) {
            (Shape::Number(old), Shape::Number(new)) if old == new => {
                self.copy(from_at..from_at + old, to_at);
                Ok(())
            }
            (Shape::Enum(old, was), Shape::Enum(new, is)) if old == new && *old <= 4 => {
                let number = |name: &str| is.iter().find(|(known, _)| known == name);
                self.steps.push(Step::Translate {
                    name: name.to_owned(),
                    from: from_at,
                    to: to_at,
                    size: *old,
                    numbers: was
                        .iter()
                        .filter_map(|(name, was)| Some((*was, number(name)?.1)))
                        .collect(),
                });
                Ok(())
            }
            (Shape::Array(old, count), Shape::Array(new, same)) if count == same => (0..*count)
                .try_for_each(|index| {
                    let old_at = from_at + index * old.size();
                    self.add(name, (old, old_at), (new, to_at + index * new.size()))
                }),
            (Shape::Struct(_), Shape::Struct(new)) if OPAQUE.contains(&new.name.as_str()) => Ok(()),
            (Shape::Struct(_), Shape::Struct(new)) => {
                for field in &new.fields {
                    let Some(old) = from.field(&field.name) else {
                        continue;
                    };
                    if field.name != RESERVED {
                        let old = (&old.shape, from_at + old.offset);
                        self.add(&field.name, old, (&field.shape, to_at + field.offset))?;
                    }
                }
                Ok(())
            }
            _ => Err(format!("{name} has another type")),
        }
    }

    /// Adds a step that copies bytes; those that follow on the step before become part of it.
    fn copy(&mut self, from: Range<usize>, to: usize) {
        if let Some(Step::Copy(last, last_to)) = self.steps.last_mut()
            && last.end == from.start
            && *last_to + last.len() == to
        {
            last.end = from.end;
            return;
        }
        self.steps.push(Step::Copy(from, to));
    }
}

fn read(bytes: &[u8]) -> u32 {
    let mut number = [0; 4];
    number[low(bytes.len())].copy_from_slice(bytes);
    u32::from_ne_bytes(number)
}

/// Returns the bytes of a u32 in which a shorter number lies.
const fn low(size: usize) -> Range<usize> {
    if cfg!(target_endian = "big") {
        4 - size..4
    } else {
        0..size
    }
}

#[cfg(test)]
mod tests {
    use super::super::btf::{Field, Struct};
    use super::*;

    fn layout(size: usize, fields: &[(&str, usize, Shape)]) -> Shape {
        let field = |(name, offset, shape): &(&str, usize, Shape)| Field {
            name: (*name).to_owned(),
            offset: *offset,
            shape: shape.clone(),
        };
        Shape::Struct(Struct {
            name: "T".to_owned(),
            size,
            fields: fields.iter().map(field).collect(),
        })
    }

    fn names(names: &[(&str, u32)]) -> Shape {
        let name = |(name, number): &(&str, u32)| ((*name).to_owned(), *number);
        Shape::Enum(1, names.iter().map(name).collect())
    }

    #[test]
    fn by_name() {
        let bytes = |count| Shape::Array(Box::new(Shape::Number(1)), count);
        let old = layout(
            8,
            &[
                ("a", 0, Shape::Number(2)),
                ("gone", 2, Shape::Number(2)),
                ("address", 4, bytes(3)),
                ("reserved", 7, Shape::Number(1)),
            ],
        );
        let new = layout(
            12,
            &[
                ("address", 0, bytes(3)),
                ("reserved", 3, bytes(5)),
                ("a", 8, Shape::Number(2)),
                ("added", 10, Shape::Number(2)),
            ],
        );
        let conversion = Conversion::new(&old, &new).unwrap();
        assert_eq!(
            conversion.convert(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap(),
            [5, 6, 7, 0, 0, 0, 0, 0, 1, 2, 0, 0]
        );
        assert!(conversion.convert(&[1, 2, 3]).is_err());
    }

    #[test]
    fn the_same_layout_is_one_copy() {
        let same = layout(4, &[("a", 0, Shape::Number(2)), ("b", 2, Shape::Number(2))]);
        let conversion = Conversion::new(&same, &same).unwrap();
        assert_eq!(conversion.steps, [Step::Copy(0..4, 0)]);
    }

    #[test]
    fn enumerators_by_name() {
        let old = layout(1, &[("mode", 0, names(&[("A", 0), ("B", 1), ("C", 2)]))]);
        let new = layout(1, &[("mode", 0, names(&[("B", 0), ("A", 1)]))]);
        let conversion = Conversion::new(&old, &new).unwrap();
        assert_eq!(conversion.convert(&[0]).unwrap(), [1]);
        assert_eq!(conversion.convert(&[1]).unwrap(), [0]);
        for unknown in [2, 3, 255] {
            let error = conversion.convert(&[unknown]).unwrap_err();
            assert!(error.contains("mode"), "{error}");
        }
    }

    #[test]
    fn what_changed_its_size_is_refused() {
        let old = layout(4, &[("count", 0, Shape::Number(4))]);
        let new = layout(8, &[("count", 0, Shape::Number(8))]);
        let error = Conversion::new(&old, &new).unwrap_err();
        assert!(error.contains("count"), "{error}");
    }
}
