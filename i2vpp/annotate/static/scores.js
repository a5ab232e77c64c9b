// What scores mean to a person. The server's rule for doubtful frames counts sudden changes of the area, too.

import { isEmpty, promptsOf } from "./state.js";

const SURE_IOU = 0.6; // predicted overlap; lower ones are marked
const SURE_SCORE = 1; // object score, a logit: between 0 (not there) and this it is hardly there

/** Whether entry `i` of an object's timeline is marked as doubtful; where a person prompted it, it is not. */
export function isDoubtful(objectId, { frames, area, score, iou }, i) {
  const low = (iou[i] !== null && iou[i] < SURE_IOU) || (score[i] !== null && score[i] < SURE_SCORE);
  return low && area[i] > 0 && isEmpty(promptsOf(objectId, frames[i]));
}
